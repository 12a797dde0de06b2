"""report.xml: the checks as JUnit XML, which CI systems show beside their tests.

The format has no standard; this keeps to what Jenkins, GitLab and GitHub's reporters read: testsuites, testsuite, testcase, failure, skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from toolkit.report.facts import Document, label_of, open_points

FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold (production 2, Char); a model may well write one."""


def xml(report: Document) -> str:
    """Return one testsuite an endpoint with one testcase a check, and at last the verdict itself.

    The verdict is a case of its own because a required check that was skipped is no failure to a CI system and no pass to us.
    """
    suites: dict[str, list[Document]] = {}
    for check in report["checks"]:
        suites.setdefault(label_of(check), []).append(check)
    root = ElementTree.Element("testsuites", {"name": _clean(report["name"])})
    seconds = {numbers["label"]: numbers["seconds"] for numbers in report["observed"]["endpoints"]}
    for label, checks in suites.items():
        _suite(root, label, checks, seconds.get(label, 0.0))
    _suite(root, "verdict", [_verdict(report)], 0.0)
    for name in ("tests", "failures", "skipped"):
        root.set(name, str(sum(int(suite.get(name, 0)) for suite in root)))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _verdict(report: Document) -> Document:
    """Return the verdict as a check."""
    points = [f"{check['name']} of {label_of(check)}: {check['message']}" for check in open_points(report["checks"])]
    message = f"the verdict is {report['verdict']}"
    return {"name": "verdict", "status": report["verdict"], "message": message, "remedy": "", "evidence": {"because": points}, "required": True}


def _suite(root: ElementTree.Element, label: str, checks: Sequence[Document], seconds: float) -> None:
    suite = ElementTree.SubElement(root, "testsuite", {"name": _clean(label), "tests": str(len(checks)), "errors": "0", "time": f"{seconds:.2f}"})
    for name, status in (("failures", "fail"), ("skipped", "skip")):
        suite.set(name, str(sum(check["status"] == status for check in checks)))
    # Jenkins groups by what stands before the last dot of a class name: an engine's variants become classes of one package
    place = f"thinkship.{label.replace('.', '_').replace('/', '.')}"
    for check in checks:
        _outcome(ElementTree.SubElement(suite, "testcase", {"classname": _clean(place), "name": check["name"]}), check)


def _outcome(case: ElementTree.Element, check: Document) -> None:
    if check["status"] == "skip":
        ElementTree.SubElement(case, "skipped", {"message": _clean(check["message"])})
    elif check["status"] == "fail":
        kind = "required" if check["required"] else "not required"
        failure = ElementTree.SubElement(case, "failure", {"message": _clean(check["message"]), "type": kind})
        fix = f"fix: {check['remedy']}\n" if check["remedy"] else ""
        failure.text = _clean(f"{check['message']}\n{fix}evidence: {json.dumps(check['evidence'], indent=2, ensure_ascii=False)}")
    else:
        ElementTree.SubElement(case, "system-out").text = _clean(check["message"])


def _clean(text: str) -> str:
    """Return a text with every character that XML cannot hold written as its code."""
    return FORBIDDEN.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
