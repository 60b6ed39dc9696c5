"""Faults that need more than a loop: they end processes, damage files, or hit one rank of several.

Each run trains the classifier of `trimtab.bench.processes.parts` in processes of its own. A run whose process ends
before its time is started again, up to `NUM_STARTS` times altogether, whoever trains. A plain loop without checkpoints
begins anew each time; all steps it makes and all starts count in its time. A loop with checkpoints loads its newest
one; if that raises, the start has failed as any other would.

A kill and a damaged checkpoint happen once, in the first process. Memory runs out for the same batch in every process,
as it does for one long sample among short ones. A damaged checkpoint does no harm until it is read, so the process is
killed in the step after.

Of every run there is a twin: the same contestant, seed and length, without a fault.

`cases` says which runs there are, `running` makes them, `outcomes` shows them. The processes run `loops` on
what `parts` builds, and import nothing of the others: their start is most of what a run costs.
"""
