"""Fuzzes the numerics: random operations, blocks and networks of random sizes, against the reference in float64.

  python -m benchmarks.parity.fuzz                                   # 500 cases of every kind; hours
  python -m benchmarks.parity.fuzz --kinds=max_pool,stem --cases=50
  python -m benchmarks.parity.fuzz --seed=7 --kinds=stem --first=3 --cases=1    # one case again

Each case is compiled as a whole, forward and backward, with the compiler options of training or with XLA's defaults;
the value and all gradients are compared. A failure is reduced to a smaller case and printed. After an interruption,
the same command with the printed seed continues. The cases of a seed are the same everywhere.
"""

import argparse
import collections
import concurrent.futures
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from benchmarks.common import machine
from benchmarks.parity import fuzz_cases, fuzz_programs

FOLDER = Path(__file__).resolve().parents[2] / "runs" / "fuzz"
EAGER_EVERY = 20  # One in so many cases also runs without `jit`, where each operation compiles by itself.
_MOST = 20  # Failures before it ends: so many usually share one cause.
_SHRINKING = 90.0  # Seconds for reducing a failure.
_REMEMBERED = 20  # Cases of a kind after which compiled programs are freed.


def run_case(kind: str, seed: int, number: int) -> dict:
    """Returns the facts of one case, JSON-able."""
    case, begun = fuzz_cases.draw(kind, seed, number), time.monotonic()
    facts = {"kind": kind, "number": number, "dtype": case.dtype, "remat": case.remat, "options": case.options}
    eager = number % EAGER_EVERY == 0 and kind not in fuzz_cases.NETWORKS
    try:
        verdicts = [fuzz_programs.judge(case)] + ([fuzz_programs.judge(case, eager=True)] if eager else [])
    except Exception as error:  # Any error counts as a failure, and the other cases continue.
        return facts | {"failed": f"{case}\n    {type(error).__name__}: {error}", "error": None, "rounding": False}
    worst = next((verdict for verdict in verdicts if not verdict.passed), verdicts[0])
    facts |= {"error": worst.errors[worst.worst], "of": worst.worst}
    facts |= {"rounding": any(verdict.rounding for verdict in verdicts)}
    facts |= {"eager": eager, "failed": "", "seconds": time.monotonic() - begun}
    if not worst.passed:
        facts["failed"] = f"{case}\n    {worst.worst}: {worst.errors[worst.worst]:.1e}"
    return facts


def shrink(kind: str, seed: int, number: int) -> str:
    """Simplifies a failing case as long as it fails, and returns a description of the last one."""
    case, until = fuzz_cases.draw(kind, seed, number), time.monotonic() + _SHRINKING
    verdict, simpler = fuzz_programs.judge(case), fuzz_cases.simpler(case)
    if verdict.passed:
        return "passes under jit"
    while time.monotonic() < until:
        candidate = next(simpler, None)
        if candidate is None:
            break
        try:
            found = fuzz_programs.judge(candidate)
        except (TypeError, ValueError, ZeroDivisionError):  # The layers do not fit this size.
            continue
        if not found.passed:
            case, verdict = candidate, found
            simpler = fuzz_cases.simpler(case)
    return f"{case}\n    {verdict.worst}: {verdict.errors[verdict.worst]:.1e}"


def run_all(
    kinds: Sequence[str], seed: int, numbers: Sequence[int], pool: concurrent.futures.Executor, file: Path
) -> Iterator[dict]:
    """Runs the cases that are not in the file yet, and appends each of them.

    Yields:
      The facts of each case, beginning with those in the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    cases = {(kind, number) for kind in kinds for number in numbers}
    done = [facts for facts in done if (facts["kind"], facts["number"]) in cases]
    yield from done
    left = cases - {(facts["kind"], facts["number"]) for facts in done}
    # All kinds interleaved, so that an interrupted run has cases of each.
    programs = collections.defaultdict(list)
    for kind, number in sorted(left, key=lambda one: (one[1], kinds.index(one[0]))):
        programs[kind, number // fuzz_cases.DRAWS[kind]].append(number)
    futures = [pool.submit(_run_program, kind, seed, of_program) for (kind, _), of_program in programs.items()]
    with file.open("a") as out:
        for future in concurrent.futures.as_completed(futures):
            for facts in future.result():
                out.write(json.dumps(facts) + "\n")
                out.flush()
                yield facts


def _run_program(kind: str, seed: int, numbers: Sequence[int]) -> list[dict]:
    """Returns the facts of the cases of one program."""
    if numbers[0] % _REMEMBERED == 0:
        fuzz_programs.forget()
    return [run_case(kind, seed, number) for number in numbers]


def table(cases: Sequence[dict]) -> list[str]:
    """Returns the lines of a table, one for each kind."""
    lines = [
        "| kind | cases | programs | float32 within 1e-4 | largest of these | explained by rounding | bfloat16 | "
        "no jit | failed |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind in fuzz_cases.KINDS:
        of_kind = [facts for facts in cases if facts["kind"] == kind]
        if not of_kind:
            continue
        single = [facts for facts in of_kind if facts["dtype"] == "float32" and not facts["failed"]]
        within = [facts for facts in single if not facts["rounding"]]
        largest = max((facts["error"] for facts in within), default=0.0)
        programs = len({facts["number"] // fuzz_cases.DRAWS[kind] for facts in of_kind})
        half = sum(facts["dtype"] == "bfloat16" for facts in of_kind)
        eager, failed = (sum(bool(facts.get(key)) for facts in of_kind) for key in ("eager", "failed"))
        lines.append(
            f"| `{kind}` | {len(of_kind)} | {programs} | {len(within)} | {largest:.1e} | {len(single) - len(within)} | "
            f"{half} | {eager} | {failed} |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the cases, prints failures as they occur and a table at the end; returns 1 if there are failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", default=",".join(fuzz_cases.KINDS), help="default: all, %(default)s")
    parser.add_argument("--cases", type=int, default=500, help="of each kind; default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="number of the first; default: %(default)s")
    parser.add_argument("--seed", type=int, help="default: a new one, which is printed")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes; default: %(default)s")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time limit; default: none")
    options = parser.parse_args(arguments)
    kinds = options.kinds.split(",")
    unknown = [kind for kind in kinds if kind not in fuzz_cases.KINDS]
    if unknown:
        parser.error(f"unknown kind {unknown[0]!r}; valid: {', '.join(fuzz_cases.KINDS)}")
    seed = options.seed if options.seed is not None else time.time_ns() % 2**31
    numbers = range(options.first, options.first + options.cases)
    print(f"Seed {seed}. {machine.describe_in_words(machine.describe(os.environ))}", flush=True)
    begun, cases = time.monotonic(), []
    file = FOLDER / f"{seed}.jsonl"
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(options.workers, context)
    with tqdm(total=len(kinds) * len(numbers), unit="case") as bar, pool:
        for facts in run_all(kinds, seed, numbers, pool, file):
            cases.append(facts)
            bar.update()
            if facts["failed"]:
                bar.write(f"after {time.monotonic() - begun:.0f} s, case {facts['number']} of {facts['failed']}")
            if time.monotonic() - begun > 60 * options.minutes or sum(bool(one["failed"]) for one in cases) == _MOST:
                break
        pool.shutdown(wait=False, cancel_futures=True)
    failures = [facts for facts in cases if facts["failed"]]
    if failures:
        print(f"Reducing the first failure, for at most {_SHRINKING:.0f} s ...", flush=True)
        print(shrink(failures[0]["kind"], seed, failures[0]["number"]))
    print(*table(cases), "", f"{len(cases)} cases, {len(failures)} failures; each case: {file}", sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
