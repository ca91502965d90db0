"""A git tag for a production: which commit, which configuration, which trials.

The tag is annotated and stands at the commit the campaign was planned at. Whether it can be made is
asked before anything is written; it is made once the campaign is planned, so that an unfinished plan
leaves none behind. A driver that died between the two is made up for by the next.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from staffa.errors import ConfigError, WorkspaceError
from staffa.storage.files import read_json
from staffa.storage.provenance import amend, gather, run_git
from staffa.storage.workspace import Workspace

FIELD = "campaign.tag"
"""What asks for a tag: complaints begin with it, so that file and line can be put in front."""


def tag_name(version: str, name: str, tag: bool | str) -> str:
    """The name of a production's tag: `staffa/v1.0_protein`, a suffix behind it where `tag` is one."""
    suffix = f"_{tag}" if isinstance(tag, str) else ""
    return f"staffa/{version}_{name}{suffix}"


def check_tag(source: Path, name: str) -> None:
    """Make sure that a tag of this name can be made in the workflow's repository.

    Raises `ConfigError` where there is no repository, no commit or no committer, where git takes no
    such name, or where the tag stands already.
    """
    commit = gather(source)["git"]
    if commit["outside"]:
        raise _refusal(f"'{source}' is in no git repository", f"git init {_quoted(source)}, commit the workflow")
    if commit["commit"] is None:
        raise _refusal(f"nothing is committed yet in '{source}'", f"git -C {_quoted(source)} add -A; git commit")
    if not _succeeds(source, "check-ref-format", f"refs/tags/{name}"):
        raise _refusal(f"git takes no tag called {name!r}", "give the campaign another name, or the tag a suffix")
    for taken in (name, name.partition("/")[0]):
        if _succeeds(source, "show-ref", "--verify", "--quiet", f"refs/tags/{taken}"):
            raise _taken(source, name, taken)
    if not _succeeds(source, "var", "GIT_COMMITTER_IDENT"):
        raise _refusal("git does not know who you are", 'git config user.name "…"; git config user.email "…"')


def settle_tag(workspace: Workspace, name: str) -> str:
    """Make the tag of a planned campaign, unless that is done; returns the tag's object id.

    What it says comes from `provenance.json`, where the tag is recorded in turn. Raises
    `WorkspaceError` where git refuses, or another production took the name meanwhile.
    """
    facts = read_json(workspace.provenance)
    if not isinstance(facts, dict) or not facts.get("source"):
        raise WorkspaceError(f"'{workspace.provenance}' cannot be read: no tag can be made", _without(workspace))
    tags = dict(facts.get("tags") or {})
    if name not in tags:
        found = _made(Path(facts["source"]), name, tag_message(workspace, facts), workspace)
        tags[name] = {"object": found, "commit": facts["git"]["commit"]}
        amend(workspace.provenance, tags=tags)
    return str(tags[name]["object"])


def tag_message(workspace: Workspace, facts: Mapping[str, Any]) -> str:
    """What a tag says of its campaign.

    Arguments:
    - `facts`: the campaign's provenance.
    """
    dirty = facts.get("dirty_files")
    lines = {
        "config_hash": facts.get("config_hash", "unknown"),
        "run_hash": facts.get("run_hash", "unknown"),
        "code": facts["code"],
        "trials": facts.get("trials", "unknown"),
        "commit": facts["git"]["commit"],
        "dirty": ", ".join(dirty) if dirty else "no",
        "folder": f"{facts['machine']['host']}:{workspace.root}",
    }
    return f"{workspace.root.name}\n\n" + "".join(f"{word}: {value}\n" for word, value in lines.items())


def _made(source: Path, name: str, message: str, workspace: Workspace) -> str:
    commit = next(line for line in message.splitlines() if line.startswith("commit: ")).removeprefix("commit: ")
    words = ("tag", "--annotate", "--no-sign", "--cleanup=verbatim", "--file=-", name, commit)
    try:
        done = run_git(source, *words, text=message)
    except (OSError, subprocess.SubprocessError) as error:
        raise WorkspaceError(f"the tag {name} cannot be made: {error}", _without(workspace)) from None
    # Another driver of this very campaign may have made it, and died before it wrote that down.
    if done.returncode and _said(source, "for-each-ref", "--format=%(contents)", f"refs/tags/{name}") != message:
        complaint = os.fsdecode(done.stderr).strip()
        raise WorkspaceError(f"the tag {name} cannot be made: {complaint}", _without(workspace))
    return _said(source, "rev-parse", f"refs/tags/{name}").strip()


def _taken(source: Path, name: str, taken: str) -> ConfigError:
    show = f"git -C {_quoted(source)} show {shlex.quote(taken)}"
    if taken != name:
        return _refusal(f"a tag called {taken!r} stands in the way of {name!r}", f"look at it: {show}; rename it")
    return _refusal(
        f"the tag {name} exists already",
        f"look at it: {show}; raise campaign.version, or give this tag a suffix: --tag-suffix rerun",
    )


def _refusal(why: str, hint: str) -> ConfigError:
    return ConfigError(f"{FIELD}: {why}", f"{hint}; or run without a tag: --set {FIELD}=false")


def _without(workspace: Workspace) -> str:
    return f"mend that, or go on without a tag: staffa resume {_quoted(workspace.root)} --set {FIELD}=false"


def _succeeds(source: Path, *words: str) -> bool:
    return run_git(source, *words).returncode == 0


def _said(source: Path, *words: str) -> str:
    # for-each-ref ends what it prints with a line break of its own
    text = os.fsdecode(run_git(source, *words).stdout)
    return text.removesuffix("\n") if words[0] == "for-each-ref" else text


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
