"""Where the tasks are, in a checkout and in a wheel."""

from grains_eval import tasks_path


def test_a_wheel_carries_the_tasks_and_a_checkout_has_them_beside_the_package(tmp_path, monkeypatch):
    assert (tasks_path.task_directory() / "truthfulqa" / "recipe.yaml").is_file()
    package = tmp_path / "grains_eval"
    package.mkdir()
    monkeypatch.setattr(tasks_path, "PACKAGE", package)
    assert not tasks_path.is_installed() and tasks_path.task_directory() == tmp_path / "tasks"
    (package / "tasks").mkdir()
    assert tasks_path.is_installed() and tasks_path.task_directory() == package / "tasks"
