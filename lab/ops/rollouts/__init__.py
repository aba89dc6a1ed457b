"""Rollouts: a candidate beside what is in production, watched request by request, stopped at once when it does harm.

    begun = rollouts.start(candidate=7, share=0.1, by="ana", why="shorter prompt", margins={"quality": 0.03}, score="answered")
    rollouts.watch(say=print)                # until it is over: withdraws the candidate on harm, journal of moves and all
    rollouts.Live().get()                    # what a gateway asks for every request: some 5 us
"""

from lab.ops.rollouts.evidence import Evidence
from lab.ops.rollouts.journal import Begun, all_, current, decided, start, stop
from lab.ops.rollouts.live import Live
from lab.ops.rollouts.planning import Plan, planned
from lab.ops.rollouts.record import MARGINS, Rollout
from lab.ops.rollouts.watching import Watched, watch, watched_already

__all__ = ["MARGINS", "Begun", "Evidence", "Live", "Plan", "Rollout", "Watched", "all_", "current", "decided", "planned",
           "start", "stop", "watch", "watched_already"]
