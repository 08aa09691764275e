"""What a run was and what came of it, for people: `report.html`, one file that opens from disk.

    save_episodes(run_dir, "before", episodes)
    save_episodes(run_dir, "after", episodes)
    path = write_report(run_dir)

* Built from the files of the run folder alone, so it can be written again at any time, also of a run that
  was interrupted: what is missing or broken is said on the page.
* Nothing is loaded from anywhere: styles, drawings, frames and the script that plays them are inside.
"""

from vldac.report.episodes import Episode, load_episodes, save_episodes
from vldac.report.html import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "Episode", "load_episodes", "save_episodes", "write_report"]
