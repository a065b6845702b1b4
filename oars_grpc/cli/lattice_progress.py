"""The progress bar of work that tells the share done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from oars_grpc.core.lattice.progress import Proceed

# Names the next piece of work, and gives what it tells its share to.
Stage = Callable[[str], Proceed]


@contextmanager
def shown_stages() -> Iterator[Stage]:
    """Bars on standard error that go away at the end; nothing where that is no terminal."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:

        def stage(description: str) -> Proceed:
            task = progress.add_task(description, total=1.0)

            def proceed(share: float, /) -> None:
                progress.update(task, completed=share)

            return proceed

        yield stage
