"""Record the present parameters of every shipped profile: `python -m tests.freeze_profiles`.

`profiles/past.json` holds profile -> version -> sha256 of the parameters. Hashes of earlier
versions stay as they are; that of the present version is written anew. To be run before a release,
and never to make a changed profile pass under a version that has been released: raise the version.
"""

from __future__ import annotations

from pathlib import Path

import factlife
from factlife.config import load_profile, profile_names
from factlife.hub.protocol import PAST, recorded
from factlife.store import json_text, sha256_json


def frozen() -> dict[str, dict[str, str]]:
    """What `past.json` should hold now."""
    found = recorded()
    for name in profile_names():
        profile = load_profile(name)
        found.setdefault(name, {})[str(profile.version)] = sha256_json(profile.params())
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def main() -> None:
    """Write the file."""
    path = Path(factlife.__file__).parent / "profiles" / PAST
    path.write_text(json_text(frozen()), "utf-8")


if __name__ == "__main__":
    main()
