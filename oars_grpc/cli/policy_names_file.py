"""Opens policy files, and reads the lists of names that stand in them or in files of their own."""

from collections.abc import Mapping
from pathlib import Path

from oars_grpc.cli.policy_fields import Faults, Members
from oars_grpc.cli.policy_json_text import read_json_text
from oars_grpc.cli.policy_text import MAX_BYTES, Entry, Located, Place, TextFault, read_yaml
from oars_grpc.core.policy_vocabulary import Vocabulary


def read_root(faults: Faults) -> Located:
    """What stands in the file, an empty mapping if it cannot be read and that is noted.

    Raises:
        OSError: the file cannot be opened.
    """
    path = faults.file
    with path.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        faults.add(Place(), f"is longer than {MAX_BYTES} bytes")
        return Located({}, Place())
    try:
        text = data.decode("utf-8-sig")
        return read_json_text(text) if path.suffix == ".json" else read_yaml(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.add(Place(line), "is not UTF-8")
    except TextFault as error:
        faults.add(error.place, error.message)
    return Located({}, Place())


def read_list_file(path: Path, name: str) -> Vocabulary:
    """The tools, or the workflows, that a file lists at its top or under that name.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such list.
    """
    faults = Faults(path)
    root = read_root(faults)
    if isinstance(root.content, list):
        root = Located({name: Entry(root.place, root)}, root.place)
    members = Members(faults, root, "", {name})
    members.require(name)
    if name == "tools":
        found = Vocabulary(tools=read_tools(faults, members))
    else:
        found = Vocabulary(workflows=read_workflows(faults, members))
    if faults.found:
        raise ValueError("\n".join(map(str, faults.found)))
    return found


def read_tools(faults: Faults, head: Members) -> Mapping[str, frozenset[str] | None] | None:
    """The tools of a list: names, or mappings of `id` and `operations`; None if there is none."""
    if "tools" not in head:
        return None
    tools: dict[str, frozenset[str] | None] = {}
    for index, item in enumerate(head.items("tools")):
        if isinstance(item.content, str):
            tools[item.content] = None
            continue
        names = {"id": "id", "tool_id": "id", "operations": "operations"}
        members = Members(faults, item, f"{head.path}.tools[{index}]", names)
        members.require("id")
        operations = frozenset(members.texts("operations")) if "operations" in members else None
        tools[members.text("id")] = operations
    return tools


def read_workflows(faults: Faults, head: Members) -> frozenset[str] | None:
    """The workflows of a list: ids, or mappings with one; None if there is none."""
    if "workflows" not in head:
        return None
    found = set()
    for index, item in enumerate(head.items("workflows")):
        if isinstance(item.content, str):
            found.add(item.content)
            continue
        # As in the tenant's settings, of which the id is enough here.
        field = f"{head.path}.workflows[{index}]"
        content = item.content if isinstance(item.content, dict) else {}
        entry = content.get("id") or content.get("workflow_id") or content.get("workflowId")
        if entry is None or not isinstance(entry.value.content, str):
            faults.add(item.place, "a workflow is its id, or has one", field=field)
        else:
            found.add(entry.value.content)
    return frozenset(found)
