"""The command line: one command for every backend.

    python -m transformer train-model --env local --set training.max_epochs=5 --run-id 0123abcd --result result.json

Logs go to standard error. Exit status 0 = done, 2 = the input or configuration is wrong, 1 = any other failure. A
failure ends in one line `error: …` that names the wrong value and the remedy.
"""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NoReturn

from transformer import protocol
from transformer.config import (
    Config,
    LoadedConfig,
    environments,
    flatten,
    load_config_with_sources,
    to_dict,
    with_values,
)
from transformer.errors import DiskError, ServiceError, Terminated, UserError
from transformer.files import write_json
from transformer.text import one_line, redact
from transformer.tracking.names import is_run_id

log = logging.getLogger(__name__)

DEFAULT_ENV = "local"
DEFAULT_VERSION = "challenger"  # alias of the version to promote


_OnConfig = Callable[[Config, argparse.Namespace], Any]  # runs a command on its merged configuration


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments as one `error: …` line, and accepts no shortened options."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


class _Formatter(logging.Formatter):
    """Removes the passwords in addresses from log lines and tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        return str(redact(super().format(record)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status."""
    _log_to_stderr()
    try:
        options = _parser().parse_args(arguments)
        result = options.command(options)
        if options.result is not None:
            write_json(options.result, result)
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # the reader, such as `head`, has gone; Python's flush at exit must not fail on it again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted", 128 + signal.SIGINT)
    except Terminated:
        return _fail("terminated by SIGTERM", 128 + signal.SIGTERM)
    except Exception as error:
        if not isinstance(error, (ServiceError, OSError, MemoryError)):
            log.exception("unexpected error")
        said = isinstance(error, (ServiceError, DiskError))
        return _fail(str(error) if said else f"{type(error).__name__}: {error}", 1)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m transformer", description="Train and evaluate the delay transformer, stage by stage."
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str, text: str, command: Callable[[argparse.Namespace], Any]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        sub.add_argument(protocol.RESULT, type=Path, metavar="FILE", help="write the result to this file, as JSON")
        return sub

    def add_on_config(name: str, text: str, command: _OnConfig) -> argparse.ArgumentParser:
        sub = add(name, text, lambda options: command(_load(options).config, options))
        _add_config_options(sub)
        return sub

    def add_stage(name: str, text: str, stage: _OnConfig) -> argparse.ArgumentParser:
        sub = add_on_config(name, text, stage)
        sub.add_argument(
            protocol.RUN_ID,
            default="",
            type=_run_id,
            metavar="ID",
            help="MLflow run to log into (default: log nothing)",
        )
        return sub

    def add_decision(name: str, text: str, decide: _OnConfig) -> argparse.ArgumentParser:
        sub = add_on_config(name, text, decide)
        sub.add_argument("--why", default="by hand", metavar="TEXT", help="reason, stored in the version's tags")
        sub.add_argument("--by", metavar="NAME", help="name of the decider (default: the user of this process)")
        return sub

    add_stage(protocol.FETCH_FILES, "get the event tables and check them", _fetch_files)
    add_stage(
        protocol.COMPUTE_STATISTICS_AND_EMBEDDINGS,
        "compute statistics and embeddings of the training dates",
        _compute_statistics,
    )
    train = add_stage(protocol.TRAIN_MODEL, "train the transformer", _train_model)
    train.add_argument(
        protocol.WARM_START_RUN_ID, type=_run_id, metavar="ID", help="begin with the best weights of this MLflow run"
    )
    train.add_argument(protocol.RESUME, action="store_true", help="continue the run --run-id from its last checkpoint")
    evaluate = add_stage(protocol.EVALUATE_MODEL, "evaluate the best checkpoint on the test dates", _evaluate_model)
    evaluate.add_argument(
        protocol.FROM, dest="first", metavar="DATE", help="first date of a window, instead of test dates"
    )
    evaluate.add_argument(protocol.TO, dest="last", metavar="DATE", help="last date of that window")
    evaluate.add_argument(
        protocol.LAST, dest="count", type=int, metavar="N", help="window of the last N dates with data"
    )
    evaluate.add_argument(
        protocol.AGAIN, action="store_true", help="evaluate even if the run has results on these dates"
    )
    evaluate.add_argument(
        protocol.ALLOW_TRAINING_DATES, action="store_true", help="evaluate even if dates trained or validated the model"
    )
    evaluate.add_argument(protocol.IF_NEW, action="store_true", help="keep the results that the run has on these dates")
    evaluate.add_argument(
        protocol.REQUEST,
        default="",
        metavar="ID",
        help="keep the outcome under this id in the MLflow run, tag request/ID",
    )
    add_stage(protocol.REGISTER_MODEL, "register the run's model as a new version, the challenger", _register_model)
    tune = add_stage(protocol.TUNE, "run trials of the hyperparameter study search.study_name", _tune)
    tune.add_argument(
        protocol.WARM_START_RUN_ID,
        type=_run_id,
        metavar="ID",
        help="begin every trial with the best weights of this run",
    )
    tune.add_argument(
        protocol.WORKER,
        type=int,
        default=0,
        metavar="K",
        help="number of this worker, different for each worker and kept by its restarts (default: 0)",
    )
    add_stage(
        protocol.REPORT_STUDY, "report table, figures and best values of the study search.study_name", _report_study
    )

    promote = add_decision("promote", "make a version of the registered model the champion", _promote)
    promote.add_argument(
        "--version", default=DEFAULT_VERSION, metavar="V", help=f"number or alias (default: {DEFAULT_VERSION})"
    )
    add_decision("rollback", "bring the previous champion back", _rollback)
    _add_prediction_options(add("predict", "predict the delays of every train that runs at an instant", _predict))
    _add_config_options(add("config", "print the merged configuration, and the source of each value", _config))
    _add_simulation_options(add("simulate", "write sample data of a simulated railway", _simulate))
    of_source = add("import", "import the files of a public source of train data", _import)
    of_source.add_argument("source", nargs="?", metavar="SOURCE", help="word of the source, see --list")
    of_source.add_argument("--list", action="store_true", help="print what each source offers, and its licence")
    _add_import_options(of_source)
    infrabel = add("import-infrabel", "the same as `import infrabel`", _import)
    infrabel.set_defaults(source="infrabel", list=False)
    _add_import_options(infrabel)
    return parser


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        protocol.ENV,
        default=os.environ.get(protocol.ENV_VARIABLE) or DEFAULT_ENV,
        help=f"environment, one of: {', '.join(environments())} (default: {protocol.ENV_VARIABLE} or {DEFAULT_ENV})",
    )
    parser.add_argument(
        protocol.SET,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one configuration key, for example training.max_epochs=5; can be repeated",
    )


def _add_prediction_options(parser: argparse.ArgumentParser) -> None:
    _add_config_options(parser)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(protocol.RUN_ID, type=_run_id, metavar="ID", help="MLflow run whose model predicts")
    model.add_argument("--run-folder", type=Path, metavar="FOLDER", help="local folder of a run, without MLflow")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--at", metavar="TIME", help="instant, as 2024-12-21T08:00+01:00; no offset: in data.timezone")
    what.add_argument("--ride", type=Path, metavar="GOLD_FOLDER", help="all keys of RIDE's test_eval_table.parquet")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="event tables (default: data.local_folder)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="result: .parquet, .csv or .json")
    parser.add_argument(
        "--transfer-minutes",
        type=float,
        metavar="M",
        help="with --at: also write FILE_transfers, the probability of each transfer within an hour that M minutes "
        "remain for it",
    )


def _add_simulation_options(parser: argparse.ArgumentParser) -> None:
    from transformer.data.simulator.settings import SimulationConfig

    parser.add_argument("--to", type=Path, default=Path("data/sample"), metavar="FOLDER", help="default: data/sample")
    parser.add_argument("--overwrite", action="store_true", help="replace event tables that were not simulated")
    parser.add_argument("--rotations", action="store_true", help="also write the table of the input rotation")
    for field in dataclasses.fields(SimulationConfig):
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help=f"{field.metadata['help']} (default: {field.default})",
        )


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    period = parser.add_mutually_exclusive_group()
    period.add_argument("--months", help="2025-01, 2025-01..2025-03, or a list such as 2025-01,2025-03")
    period.add_argument("--dates", help="2025-01-06, 2025-01-06..2025-01-12, or a list of both with commas")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="data folder to write or add to")
    parser.add_argument(
        "--from",
        type=Path,
        dest="folder",
        metavar="FOLDER",
        help="read the source's files from this folder, download none; without --months and --dates, all of them",
    )
    parser.add_argument("--missing", action="store_true", help="leave out the dates that --to has already")
    parser.add_argument(
        "--points",
        "--operational-points",
        type=Path,
        metavar="FILE",
        help="the source's file of points, for names and positions (default: found next to the other files)",
    )
    parser.add_argument(
        "--keep-zeros",
        action="store_true",
        help="rdt, db: keep delays of zero of trains and stations that report no other delay in a file",
    )
    parser.add_argument(
        "--route-types",
        default="",
        metavar="TYPES",
        help="gtfs-rt: the GTFS route types to import, such as 2,100-199 (default: metro and rail)",
    )


def _run_id(text: str) -> str:
    if text and not is_run_id(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an MLflow run id; copy it from the run's page")
    return text


def _load(options: argparse.Namespace) -> LoadedConfig:
    return load_config_with_sources(options.env, options.overrides)


def _fetch_files(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    return stages.fetch_files(config, options.run_id)


def _compute_statistics(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    return stages.compute_statistics_and_embeddings(config, options.run_id)


def _train_model(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    if options.resume and not options.run_id:
        raise UserError("--resume needs --run-id: the MLflow run to continue")
    return stages.train_model(config, options.run_id, options.warm_start_run_id, options.resume)


def _evaluate_model(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages
    from transformer.evaluation.evaluate import EvaluationRequest
    from transformer.evaluation.window import Window

    window = Window.parse(options.first, options.last, options.count)
    for option in ("again", "if_new", "allow_training_dates"):
        if getattr(options, option) and window is None:
            raise UserError(f"--{option.replace('_', '-')} needs a window; add --from and --to, or --last N")
    if options.request and not options.run_id:
        raise UserError(f"--request {options.request} writes a tag of an MLflow run; add --run-id")
    request = EvaluationRequest(
        window=window,
        again=options.again,
        if_new=options.if_new,
        allow_training_dates=options.allow_training_dates,
        id=options.request,
        env=options.env,
        overrides=options.overrides,
    )
    return stages.evaluate_model(config, options.run_id, request)


def _register_model(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    return stages.register_model(config, options.run_id)


def _promote(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    return stages.promote_model(config, options.version, options.why, options.by or _user())


def _rollback(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    return stages.rollback_model(config, options.why, options.by or _user())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a pod's user may have no name
        return f"user {os.getuid()}"


def _predict(options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    config = _load(options).config
    if options.data is not None:
        here = {"data.local_folder": str(options.data), "data.download_data_from_s3": False}
        config = with_values(config, here, "--data")
    model = options.run_folder or options.run_id
    if options.ride is not None:
        if options.transfer_minutes is not None:
            raise UserError("--transfer-minutes needs --at; RIDE's keys name no transfers")
        return stages.predict_ride(config, model, options.ride, options.out)
    return stages.predict(config, model, options.at, options.out, options.transfer_minutes)


def _tune(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    if options.worker < 0:
        raise UserError(f"--worker {options.worker} must not be negative")
    return stages.tune(config, options.run_id, options.worker, options.warm_start_run_id)


def _report_study(config: Config, options: argparse.Namespace) -> dict[str, Any]:
    from transformer import stages

    return stages.report_study(config, options.run_id, options.env, options.overrides)


def _config(options: argparse.Namespace) -> dict[str, Any]:
    loaded = _load(options)
    config = redact(to_dict(loaded.config))
    lines = {key: f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in flatten(config).items()}
    width = max(len(line) for line in lines.values() if len(line) < 80)
    for key, line in lines.items():
        print(f"{line:<{width}}  # {loaded.sources[key]}")
    return {"config": config, "sources": dict(loaded.sources)}


def _simulate(options: argparse.Namespace) -> dict[str, Any]:
    from transformer.data.simulator.dataset import simulate
    from transformer.data.simulator.settings import SimulationConfig

    settings = {field.name: getattr(options, field.name) for field in dataclasses.fields(SimulationConfig)}
    return simulate(
        options.to,
        SimulationConfig(**settings),
        progress=log.info,
        overwrite=options.overwrite,
        rotations=options.rotations,
    )


def _import(options: argparse.Namespace) -> dict[str, Any]:
    from transformer.data.dates import parse_dates
    from transformer.data.sources.catalogue import SOURCES, described, source_named
    from transformer.data.sources.importing import account, import_source
    from transformer.data.sources.periods import dates_of_months
    from transformer.data.sources.source import Options

    if options.list:
        print("\n\n".join(described(source.about) for source in SOURCES.values()))
        return {"sources": list(SOURCES)}
    if not options.source:
        raise UserError(f"the source is missing; name one of {', '.join(SOURCES)}, or see them with --list")
    source = source_named(options.source)
    if options.to is None:
        raise UserError(f"--to is missing; name the data folder to write, for example --to data/{options.source}")
    days: tuple[date, ...] = ()
    if options.months:
        days = dates_of_months(options.months)
    elif options.dates:
        days = parse_dates(options.dates.split(","), "--dates")
    elif options.folder is None:
        raise UserError("--months or --dates is missing; name the service dates to download, or a folder with --from")
    counts = import_source(
        source,
        options.to,
        days,
        options.folder,
        points=options.points,
        missing=options.missing,
        options=Options(keep_zeros=options.keep_zeros, route_types=options.route_types),
        progress=log.info,
    )
    for line in account(counts):
        log.info(line)
    log.info("licence: %s", source.about.licence)
    return counts


def _log_to_stderr() -> None:
    """Log the pipeline's lines to standard error; libraries log warnings only."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    for name in ("mlflow", "matplotlib", "alembic", "optuna"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # missing fonts are not needed
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # the pipeline itself reports the last retry
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def _fail(message: str, status: int) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
    return status
