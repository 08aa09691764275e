"""How fast this is, beside what the device could do at best: `python -m experiments.bench`.

* `options` is the command line, `ceilings` what the device reaches on a bare product and a bare copy, `work` what
  a piece of work needs of both, `measure` the clock, `kernels` the profiler, `worlds` and `model` what is timed,
  `table` how it is shown and written.
* Ceilings and work are of the same run, so a ratio of 1 is this device's own rate under load, not a data sheet's.
"""
