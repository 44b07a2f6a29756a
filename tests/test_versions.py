"""Versions that results depend on."""

from importlib.metadata import version

from grains_eval.versions import package_versions


def test_packages_that_are_not_installed_are_left_out():
    assert package_versions(["torch", "no-such-package-here"]) == {"torch": version("torch")}
    assert {"torch", "transformers", "lm_eval"} <= set(package_versions())
