"""Cross-modal representation learning as a notebook-first, reproducible report

Modules:

- `crossmodal_nb.cli`: One program, `crossmodal`: list data, plan and run experiments, read the numbers, build the book."""

__version__ = "0.1.0"
