"""Creates runs. The same terms under the same name are the same run; other terms under a taken name are refused."""

from __future__ import annotations

from common.clock import Clock
from common.ids import RunId, derived_id
from common.label_schema import check_task
from common.terms import Terms, check_terms
from common.tls import Caller
from coordinator.app.round_driver import RoundDriver
from coordinator.domain.aggregation import check_needs, strategy_of
from coordinator.domain.run_machine import create_run
from coordinator.domain.values import Run


async def create(driver: RoundDriver, clock: Clock, terms: Terms, caller: Caller | None = None) -> Run:
    """Create the run of ``terms``, or return the one that is there.

    Raises:
        InputInvalidError: TERMS_INVALID, with all problems.
        NotNowError: RUN_EXISTS, when the name is taken by other terms.
    """
    check_terms(terms)
    if all(run.terms != terms for run in driver.runs):  # what an earlier version took is there, and is returned
        check_task(terms.task)
    check_needs(strategy_of(terms), terms)
    # The id is a function of the terms: creating twice, even across a crash, creates once.
    return await driver.add(create_run(RunId(derived_id("run", terms.digest)), terms, clock.now()), caller)
