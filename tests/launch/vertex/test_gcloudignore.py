"""What `gcloud builds submit` uploads is what the image is made of, and no key or run of yours."""

import subprocess
from pathlib import Path

from tests.launch.vertex.image import ROOT, sent


def test_no_more_is_uploaded_than_docker_gets(tmp_path: Path):
    """Google's tool reads the file as Git reads a .gitignore, so Git is asked."""
    wanted = sent((ROOT / ".dockerignore").read_text(encoding="utf-8"))
    assert {"setup.py", "trainer/cli.py", "trainer/serving/page/index.html"} <= wanted
    kept_back = {
        *("settings.cfg", ".env", "runs/a/model.keras", "data/items.csv", "tests/test_cli.py"),
        *(
            "trainer/.env",
            "trainer/__pycache__/a.pyc",
            "trainer/a.pyc",
            "key.json",
            "trainer2/a.py",
        ),
        *("my/trainer/a.py", "my/setup.py", ".git2/config", "mildnet.egg-info/PKG-INFO"),
    }
    assert not wanted & kept_back
    for name in {*wanted, *kept_back, "Dockerfile", ".dockerignore"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    ask = ["git", "ls-files", "--others", "-z", f"--exclude-from={ROOT / '.gcloudignore'}"]
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    found = subprocess.run(ask, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert set(found.split("\0")) - {""} == {*wanted, "Dockerfile", ".dockerignore"}
