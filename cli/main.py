"""The entry point `sharpzo-mlx`: find the command, run it, and turn an error into one line and an exit code.

Commands are listed in one table and imported when they are called. An error that the user can fix is one line on stderr
and exit code 2, Ctrl-C is 130, a bug is a traceback and 1. The library's notices appear on stderr as `note: ...`.

>>> run(["--version"])  # doctest: +ELLIPSIS
sharpzo-mlx 0...
0
"""

from __future__ import annotations

import difflib
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

import click

from sharpzo_mlx.cli import streams
from sharpzo_mlx.errors import UserError, escape, is_gpu_error, remedy, why
from sharpzo_mlx.runtime import startup

COMMANDS: dict[str, tuple[str, str]] = {  # name -> (module:command, line of --help), in the order of use
    "convert": ("convert_command:convert_command", "Make a model folder from a CLIP checkpoint."),
    "models": ("models:models_command", "List models by name: known ones, and those that are here."),
    "encode": ("encode:encode_command", "Encode images once, for all later commands."),
    "classes": ("classes:classes_command", "Show the classes of a data set, with images and prompts."),
    "tune": ("tune:tune_command", "Tune CLIP to a folder of images."),
    "evaluate": ("evaluate:evaluate_command", "Measure a run on image folders, beside zero-shot."),
    "predict": ("predict:predict_command", "Label images with a run."),
    "sort": ("sort:sort_command", "Put images into folders by their labels, with a way back."),
    "suggest": ("suggest:suggest_command", "Say which unlabelled images to label next."),
    "check": ("check:check_command", "Find labels that look wrong, and copies, in a data set."),
    "add": ("add:add_command", "Add images or classes to a run, without a new search."),
    "export": ("export:export_command", "Write a run's classifier as ONNX, plain files or a web page."),
    "serve": ("serve:serve_command", "Label images on a page, and over HTTP."),
    "compare": ("compare:compare_command", "Compare methods on the same images: one table, one plot."),
    "worker": ("worker:worker_command", "Help a command on another machine that has --cluster."),
    "report": ("report:report_command", "Write one page about a run: curves, classes, images, shift, cost."),
    "upload": ("upload:upload_command", "Send a run or a model to the Hugging Face hub."),
    "demo": ("demo:demo_command", "Tune, evaluate and predict in under a minute, without network."),
    "doctor": ("doctor:doctor_command", "Check this machine and say how to fix what is wrong."),
    "completion": ("completion:completion_command", "Print shell completion for zsh, bash or fish."),
}
USER_ERROR, INTERRUPTED = 2, 130
# errors of the machine, which one line explains
_MACHINE_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENXIO}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a disk, a quota, the limit of a file
# errors of a path that the user gave
_PATH_ERRORS = {errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOENT}
_RESUME = "`tune --output RUN --resume` continues a run"
_AGAIN = "then give the same command again"
_FULL_REMEDY = "make room"
_GPU_REMEDY = "lower --memory-budget or close other programs"
_MEMORY_REMEDY = "the system gives no more memory; close other programs, raise `ulimit -v`, or lower --memory-budget"
_LOOP = "Symlink loop from "  # how pathlib's RuntimeError begins before Python 3.13


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called; its help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table, which is the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of that name, or return None."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(f"sharpzo_mlx.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; a misspelt name is answered with the nearest one."""
        if args[0] not in COMMANDS and (near := difflib.get_close_matches(args[0], COMMANDS, n=1)):
            ctx.fail(f"no such command {args[0]!r}; did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"sharpzo-mlx {version('sharpzo-mlx')}")
        ctx.exit()


@click.group(cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Adapt CLIP to a folder of images, with forward passes only.

    \b
    First steps:
      sharpzo-mlx demo              see what it does
      sharpzo-mlx convert           fetch the default model
      sharpzo-mlx tune FOLDER       a folder with one folder of images per class
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


class _Notices(logging.Handler):
    """Write each notice once, as `note: ...`, to the current stderr (which a progress bar may have replaced)."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.shown: set[str] = set()  # `compare` draws a split for every seed, which gives the same notices

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self.shown:
            self.shown.add(message)
            print(f"note: {escape(message)}", file=sys.stderr, flush=True)


def _show_notices() -> None:
    """Show notices from now on, in place of the handler of an earlier command line."""
    logger = logging.getLogger("sharpzo_mlx")
    for handler in logger.handlers[:]:
        if isinstance(handler, _Notices):
            logger.removeHandler(handler)
    logger.addHandler(_Notices())


def _fail(message: str, code: int = USER_ERROR) -> int:
    print(f"error: {escape(message)}", file=sys.stderr, flush=True)
    return code


def _usage(error: click.ClickException) -> int:
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "sharpzo-mlx"
    return _fail(f"{' '.join(error.format_message().split()).rstrip('.')} (see `{where} --help`)")


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: the words after `sharpzo-mlx`.

    Returns:
        The exit code: 0 done, 2 an error that the user can fix (one line on stderr says how), 130 interrupted.
    """
    try:
        if reason := startup.unsupported():
            raise UserError(reason)
        _show_notices()
        code = cli.main(list(arguments), prog_name="sharpzo-mlx", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except UserError as error:
        return _fail(" ".join(str(error).split()))
    except click.ClickException as error:
        return _usage(error)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except MemoryError:
        return _fail(_MEMORY_REMEDY)
    except OSError as error:
        return _system_error(error, _way_on(arguments))
    except RuntimeError as error:
        if is_gpu_error(error):
            return _fail(f"{str(error).partition(chr(10))[0].rstrip('.')}; {_GPU_REMEDY}; {_way_on(arguments)}")
        if not str(error).startswith(_LOOP):
            raise
        path = str(error).removeprefix(_LOOP).strip("'\"")
        return _fail(f"{path}: a link that leads back to itself; name another path")


def _way_on(arguments: Sequence[str]) -> str:
    """Return how to go on with a command line when the machine has room again."""
    return _RESUME if arguments[:1] == ["tune"] else _AGAIN


def _system_error(error: OSError, way_on: str) -> int:
    if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if error.errno == errno.ENOENT and not _has_current_folder():
        return _fail("the current folder has been removed; go to another one")
    if error.errno not in _MACHINE_ERRORS | _PATH_ERRORS | _FULL:
        raise error
    otherwise = "name another path" if error.errno in _PATH_ERRORS else ""
    advice = remedy(error, f"{_FULL_REMEDY}; {way_on}" if error.errno in _FULL else otherwise)
    return _fail("; ".join(filter(None, (f"{error.filename or 'the disk'}: {why(error)}", advice))))


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def main() -> None:
    """Run the command line of this process; the installed script calls this."""
    streams.prepare()
    sys.exit(run(sys.argv[1:]))
