"""Let PyPI's torchvision be imported beside a build of torch for the CPU; run once in the environment that is made.

Its compiled operators need CUDA's libraries. Where they cannot be loaded torchvision does without them, but for two
whose schemas it takes for granted. They are declared here; what resizes and crops images is Python.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

MARK = "_schemas_without_operators"
DECLARED = f"""

if not _has_ops():
    {MARK} = torch.library.Library("torchvision", "FRAGMENT")
    for _name in ("nms", "qnms"):
        {MARK}.define(f"{{_name}}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def main() -> None:
    """Append the declarations to torchvision's `extension.py`, unless they are there."""
    found = find_spec("torchvision")
    if found is None or found.origin is None:
        raise SystemExit("torchvision is not installed here")
    file = Path(found.origin).with_name("extension.py")
    text = file.read_text()
    if MARK not in text:
        file.write_text(text.rstrip() + DECLARED)


if __name__ == "__main__":
    main()
