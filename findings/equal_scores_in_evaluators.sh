#!/usr/bin/env bash
# pytrec_eval-terrier 0.5.11 and ranx 0.3.21: equal scores are ordered, and in opposite ways.
# What surprised:
#   * the evaluator of TREC breaks a tie by the name of a document, in descending order of names; ranx keeps the order in
#     which the run names them. Four documents of equal score, the first or the last of which is relevant, have an
#     average precision of 1 in one library and 1/4 in the other, and the other way round;
#   * neither warns. scikit-learn's average precision, which counts a tie as one step, says 1/4 both times.
# Why it matters: codes of few bits and collapsed embeddings tie, and their figures then depend on names of files. A
# score of 1.0 may be a property of the alphabet.
# Source: trec_eval's form_res_rels.c as packaged by pytrec_eval-terrier; ranx/data_structures/run.py (release 0.3.21).
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install --quiet pytrec_eval-terrier==0.5.11 ranx==0.3.21 scikit-learn==1.9.1 numpy==2.4.6
env/bin/python - <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
import pytrec_eval
import ranx
from sklearn.metrics import average_precision_score

names = ('pytrec_eval-terrier', 'ranx', 'scikit-learn', 'numpy')
print({name: version(name) for name in names}, 'Python', sys.version.split()[0])
scores = {name: 0.5 for name in 'abcd'}
seen = {}
for relevant in ('a', 'd'):
    trec = pytrec_eval.RelevanceEvaluator({'q': {relevant: 1}}, {'map'}).evaluate({'q': scores})['q']['map']
    other = float(ranx.evaluate(ranx.Qrels({'q': {relevant: 1}}), ranx.Run({'q': scores}), 'map'))
    tied = float(average_precision_score([name == relevant for name in scores], list(scores.values())))
    seen[relevant] = trec, other, tied
    print(f'relevant is {relevant}, all scores equal: pytrec_eval {trec}, ranx {other}, scikit-learn {tied}')
assert seen == {'a': (0.25, 1.0, 0.25), 'd': (1.0, 0.25, 0.25)}
PY
