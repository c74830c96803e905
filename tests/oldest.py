"""Print the oldest versions of jax and flax that pyproject.toml admits, as constraints for pip."""

import tomllib
from pathlib import Path

with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
    for requirement in tomllib.load(file)["project"]["dependencies"]:
        name, version = requirement.split(">=")
        print(f"{name}=={version}")
