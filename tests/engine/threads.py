"""Run functions on several threads at once."""

from __future__ import annotations

import threading


def in_threads(jobs) -> None:
    """Run all jobs at once; raise the first exception of a job."""
    raised: list[BaseException] = []
    together = threading.Barrier(len(jobs))

    def guarded(job) -> None:
        try:
            together.wait()
            job()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it hangs"
    if raised:
        raise raised[0]
