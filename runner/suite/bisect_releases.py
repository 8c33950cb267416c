"""Which release broke it? One model with the releases of one package, in one toolchain.

Each release is tried in a toolchain of its own, whose packages are resolved as of its date. The
interval is halved, since an environment for each release takes minutes and gigabytes.
"""

from __future__ import annotations

import glob
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.errors import ExitCode
from runner.formats.identify import read_file
from runner.formats.kinds import KINDS
from runner.host.files import hash_file
from runner.host.text import make_printable
from runner.packages.lockfile import compare_locks
from runner.recipes.candidates import Span, Subject, choose_subject
from runner.recipes.releases import Projects, Release, Releases
from runner.recipes.variant import ReleaseUnavailable, Variant, write_variant
from runner.suite.bisect import DEFAULT_WHATS, Bisection, Step, judge
from runner.suite.job import Job, Share
from runner.suite.latency import measure_latency, merge_latency
from runner.suite.launch import run_job
from runner.suite.plan import Conversion, SuitePlan, make_suite_plan
from runner.suite.request import Setting, describe_code
from runner.suite.results import Record, Results, make_record, read_results, write_table
from runner.suite.run import Watcher
from runner.suite.search import Verdict, search
from runner.suite.settings import LatencyTable, Options, Suite, SuiteFile
from runner.toolchains.load import forget_toolchains
from runner.toolchains.model import Toolchain

TOOLCHAINS = "toolchains"
_PLACE = "RUNNER_TOOLCHAINS"


@dataclass(frozen=True)
class Way:
    """How the releases are tried, besides the options of the conversion.

    With `every`, each is, in order. The pins of the packages in `loosen` give way to the release.
    """

    setting: Setting = Setting()
    latency: LatencyTable = field(default_factory=lambda: LatencyTable(sessions=5))
    whats: Sequence[str] = DEFAULT_WHATS
    loosen: Sequence[str] = ()
    every: bool = False


def bisect_releases(
    path: Path,
    span: Span,
    output: Path,
    projects: Projects,
    options: Options = Options(),
    way: Way = Way(),
    watcher: Watcher = Watcher(),
) -> Bisection:
    """Find the first release of a package with which a model is worse than with the oldest one.

    The runs are kept in `output`, and the toolchains that made them; what is there already is taken
    as it is. Raises `BadInput` and `EnvironmentUnavailable`.
    """
    kind = KINDS[read_file(path).format].start or "pytorch"
    releases = Releases(projects)
    subject = choose_subject(span, kind, releases)
    images = ", ".join(target.image.name for target in subject.targets)
    watcher.say(
        f"{subject.package} in {images}, of the toolchain {subject.chain.title}: "
        f"{len(subject.candidates)} releases, {_name(subject.candidates[0])} to "
        f"{_name(subject.candidates[-1])}."
    )
    with Results(output.absolute()).open() as results:
        trials = _Trials(path, subject, releases, results, options, way, watcher)
        if way.every:
            for place in range(len(subject.candidates)):
                trials.judge(place)
        else:
            search(len(subject.candidates), trials.judge)
        write_table(read_results(results.folder))
        return trials.conclude()


def _name(release: Release) -> str:
    return f"{release.version} ({release.day})" if release.day else str(release.version)


@dataclass
class _Trials:
    """The releases that were tried so far: what was written for each, and what came of it."""

    path: Path
    subject: Subject
    releases: Releases
    results: Results
    options: Options
    way: Way
    watcher: Watcher
    variants: dict[int, Variant] = field(default_factory=dict)
    skipped: dict[int, Step] = field(default_factory=dict)

    def judge(self, place: int) -> Verdict:
        """Convert the model with a release, and tell whether it is worse than the oldest good."""
        release = self.subject.candidates[place]
        self.watcher.say(f"{release.name} {_name(release)}")
        try:
            self.variants[place] = write_variant(
                self.subject, release, self.releases, self.folder, self.way.loosen
            )
        except ReleaseUnavailable as error:
            self.skipped[place] = self._skip(release, error.message)
            self.watcher.finished(self.skipped[place].record)
            return "skip"
        with _offer(self.folder):
            self._convert(place)
        self._measure(place)
        found = self.conclude()
        step = next(s for s in found.steps if s.release == str(release.version))
        if step.skipped:
            return "skip"
        return "bad" if step.bad or found.good is None else "good"

    @property
    def folder(self) -> Path:
        """The folder of the toolchains, for RUNNER_TOOLCHAINS."""
        return self.results.folder / TOOLCHAINS

    def _skip(self, release: Release, reason: str) -> Step:
        record = Record(
            key="",
            model=self.path.stem,
            toolchain=f"{self.subject.chain.title}-{release.name}-{release.version}",
            variant="default",
            outcome="unavailable",
            reason=make_printable(reason),
            exit_code=int(ExitCode.ENVIRONMENT),
        )
        return Step(record.toolchain, release.day, record, release=str(release.version))

    def _plan(self) -> SuitePlan:
        """Plan the conversions of all releases that were tried, in their order."""
        file = SuiteFile(
            name=f"{self.path.name} by {self.subject.targets[0].name}",
            models=[glob.escape(self.path.name)],
            toolchains=[self.variants[place].name for place in sorted(self.variants)],
            defaults=self.options,
        )
        return make_suite_plan(Suite(self.path.absolute().parent, file))

    def _convert(self, place: int) -> None:
        """Convert with a release, unless that run is there."""
        plan = self._plan()
        conversion = plan.conversions[sorted(self.variants).index(place)]
        if conversion.refusal is not None:  # it is about the model, and every release's
            raise conversion.refusal
        self.results.write_index(plan, describe_code())
        record = self.results.find(conversion)
        if record is None:
            record = self._run(conversion)
        self.watcher.finished(record)

    def _run(self, conversion: Conversion) -> Record:
        assert conversion.request is not None
        cell = str(conversion.cell)
        draft = self.results.drafts / secrets.token_hex(4)
        draft.parent.mkdir(parents=True, exist_ok=True)
        self.watcher.started(cell, "")
        begin = time.monotonic()
        job = Job(conversion.request, self.way.setting, Share(), draft)
        code, failure = run_job(job, lambda stage: self.watcher.stage(cell, stage))
        seconds = time.monotonic() - begin
        record = make_record(
            conversion, draft, exit_code=code, failure=failure, seconds=seconds, attempts=1
        )
        self.results.place(draft, record)
        return record

    def _measure(self, place: int) -> None:
        """Measure the latency of what was made, in turns with what it is compared with."""
        table = self.way.latency
        if "latency" not in self.way.whats or not table.sessions:
            return
        found = read_results(self.results.folder)
        new = found.records[sorted(self.variants).index(place)]
        known = found.latency.files
        if not new.artifact or new.artifact in known:
            return
        good = judge(found, self._list_chains(), self.way.whats).good
        files = {
            record.artifact: path
            for record in (new, *((good.record,) if good else ()))
            for path in (self.results.folder / record.run).glob("*.tflite")
            if hash_file(path) == record.artifact
        }
        measured = measure_latency(files, table, self.way.setting.engine)
        self.results.write_latency(merge_latency(found.latency, measured))

    def _list_chains(self) -> list[Toolchain]:
        return [
            replace(self.subject.chain, name=v.name, short="", date=v.release.day)
            for _, v in sorted(self.variants.items())
        ]

    def conclude(self) -> Bisection:
        """Say what is known after the releases that were tried."""
        places = sorted([*self.variants, *self.skipped])
        found = _judge_none(self.path, self.results.folder)
        if self.variants:
            found = judge(read_results(self.results.folder), self._list_chains(), self.way.whats)
        named = {variant.name: place for place, variant in self.variants.items()}
        steps: dict[int, Step] = {**self.skipped}
        for step in found.steps:
            place = named[step.toolchain]
            steps[place] = replace(step, release=str(self.subject.candidates[place].version))
        good = next(
            (s for s in steps.values() if found.good and s.record is found.good.record), None
        )
        found = replace(found, steps=[steps[place] for place in places], good=good)
        return replace(
            found,
            package=self.subject.targets[0].name,
            untried=[
                str(release.version)
                for place, release in enumerate(self.subject.candidates)
                if place not in steps
            ],
            lock_changes=self._compare_locks(found, named),
            notes=[*found.notes, *self._note_held()],
        )

    def _compare_locks(
        self, found: Bisection, named: Mapping[str, int]
    ) -> Mapping[str, Sequence[str]]:
        """List, by image, what else differs between the last good release and the first bad."""
        good, bad = found.last_good, found.first_bad
        if good is None or bad is None:
            return {}
        before, after = (self.variants[named[step.toolchain]] for step in (good, bad))
        names = {target.image.name: target.name for target in self.subject.targets}
        changes = {
            image: [
                change
                for change in compare_locks(before.locks[image], after.locks[image])
                if not change.startswith(f"{name} ")
            ]
            for image, name in names.items()
        }
        return {image: found for image, found in changes.items() if found}

    def _note_held(self) -> Iterator[str]:
        held = [str(v.release.version) for _, v in sorted(self.variants.items()) if not v.as_of]
        if held:
            yield (
                f"No index says when {', '.join(held)} came out: the other packages are those of "
                f"the toolchain {self.subject.chain.title}, whatever the date."
            )


def _judge_none(path: Path, folder: Path) -> Bisection:
    return Bisection(path.stem, folder, [], None)


@contextmanager
def _offer(place: Path) -> Iterator[None]:
    """Let this process, and those that it starts, find the toolchains of a folder."""
    before = os.environ.get(_PLACE)
    os.environ[_PLACE] = str(place)
    forget_toolchains()
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PLACE]
        else:
            os.environ[_PLACE] = before
