"""The exports of the published report, read by their own software: results by the newest mteb, the crate by an RO-Crate
validator. Both go into an environment that is thrown away: together they need 900 MB, and the validator an older rich.

python tests/check_exports.py            needs a package index; no other site is asked
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

read_mteb = """
import sys, mteb
from pathlib import Path
from mteb.models.model_meta import ModelMeta

folder = Path(sys.argv[1])
found = mteb.ResultCache(folder).load_results(include_remote=False)
metas = list(folder.glob('results/*/*/model_meta.json'))
for f in metas:
    ModelMeta.model_validate_json_resolved(f.read_text())
results = [t for m in found.model_results for t in m.task_results]
files = [f for f in folder.glob('results/*/*/*.json') if f not in metas]
assert len(results) == len(files) and len(found.model_results) == len(metas)
for t in results:
    (scores,) = t.scores['test']
    assert t.get_score() == scores['main_score'], t.task_name
print(f'mteb {mteb.__version__} reads {len(results)} results of {len(metas)} models; table', found.to_dataframe().shape)
"""

# the context of the crate's terms comes from the package rocrate, so that no site is asked
validate = """
import collections, sys
from pathlib import Path
import requests, rocrate
from rocrate_validator import services
from rocrate_validator.models import Severity
from rocrate_validator.utils.http import HttpRequester

def get(self, url, **options):
    if 'w3id.org/ro/crate' not in url:
        return self.__getattr__('get')(url, **options)
    answer = requests.Response()
    answer.status_code, answer.url, answer.headers['Content-Type'] = 200, url, 'application/ld+json'
    answer._content = (Path(rocrate.__file__).parent / 'data' / 'ro-crate.jsonld').read_bytes()
    return answer

HttpRequester.get = get
settings = services.ValidationSettings(rocrate_uri=sys.argv[1], requirement_severity=Severity.REQUIRED)
result = services.validate(settings)
for (severity, message), n in collections.Counter((i.severity.name, i.message) for i in result.get_issues()).items():
    print(n, severity, message)
print('valid' if result.passed() else 'NOT valid')
sys.exit(not result.passed())
"""


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        code = 'from crossmodal_nb.report.export import export; import sys; export(*sys.argv[1:])'
        for what, packages, check in (
            ('mteb', ['mteb-core'], read_mteb),
            ('ro-crate', ['roc-validator', 'rocrate'], validate),
        ):
            print(f'{what}: exporting …', flush=True)
            subprocess.run([sys.executable, '-W', 'ignore', '-c', code, what, folder / what], check=True)
            print(f'{what}: installing {", ".join(packages)} …', flush=True)
            venv.create(folder / f'env {what}', with_pip=True)
            python = folder / f'env {what}' / 'bin' / 'python'
            subprocess.run([python, '-m', 'pip', 'install', '--quiet', *packages], check=True)
            subprocess.run([python, '-W', 'ignore', '-c', check, folder / what], check=True, cwd=folder)


if __name__ == '__main__':
    main()
