"""The committed documentation agrees with the code."""

import pathlib
import re
import runpy

DOCS = pathlib.Path(__file__).parent.parent / "docs"


def test_systems_page_is_up_to_date():
    render = runpy.run_path(str(DOCS / "make_systems.py"))["render"]
    wanted = (DOCS / "systems.md").read_text()
    assert wanted == render(), "run: python docs/make_systems.py"


def test_changelog_has_this_version():
    import jaxarch

    text = (DOCS.parent / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[(\S+)\]", text, re.MULTILINE)
    assert versions[0] == jaxarch.__version__
