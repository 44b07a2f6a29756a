"""What a steered model says of its artifacts and of the documents that built them."""

from __future__ import annotations

import logging

from grains_eval.artifacts.layout import Artifact
from grains_eval.examples.documents import doc_hash
from grains_eval.harness.applied_artifacts import AppliedMixin, warn_of_other_base
from grains_eval.harness.arguments import AppliedArtifact
from tests.instances import instance

DOCS = [{"q": str(number)} for number in range(3)]


def item(**provenance):
    return AppliedArtifact("v", Artifact("prompt", None, None, "Be kind.", provenance, None), None, None)


def test_documents_that_built_are_counted_once_and_said_once(caplog):
    mixin = AppliedMixin()
    mixin.applied = (item(doc_hashes={"build": [doc_hash(DOCS[0])], "development": [doc_hash(DOCS[1])]}),)
    mixin.forget_documents()
    requests = [instance("loglikelihood", doc, ("a", "b"), number=i) for i, doc in enumerate(DOCS)]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            mixin._observe([*requests, *requests])
    assert mixin._documents_used() == {"build": 1, "tune": 1}
    assert len(caplog.records) == 2 and "1 evaluated documents were used to build" in caplog.text
    mixin.forget_documents()
    assert mixin._documents_used() == {"build": 0, "tune": 0}


def test_instructions_are_joined_and_paths_are_no_part_of_what_moves():
    mixin = AppliedMixin()
    assert mixin.instruction is None
    mixin.applied = (item(), item())
    assert mixin.instruction == "Be kind.\n\nBe kind."
    assert all("vectors" not in each and each["instruction"] == "Be kind." for each in mixin._moves())


def test_another_base_model_is_warned_of(tmp_path, caplog):
    warn_of_other_base(item(base_model="org/one"), "org/two")
    assert "was built for org/one but is applied to org/two" in caplog.text
    caplog.clear()
    warn_of_other_base(item(base_model="org/one/"), "org/one")
    (tmp_path / "here").mkdir()
    warn_of_other_base(item(base_model=str(tmp_path / "here")), str(tmp_path / "here" / ".." / "here"))
    assert not caplog.text
