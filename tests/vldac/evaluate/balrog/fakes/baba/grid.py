import os
import time
from enum import IntEnum

import numpy as np

from baba.world_object import Cell


class BabaIsYouEnv:
    class Actions(IntEnum):
        idle = 0
        up = 1
        right = 2
        down = 3
        left = 4


class Grid:
    def __init__(self, cells, rules):
        self.cells, self._ruleset = cells, {"_rule_": rules}

    def get(self, x, y):
        return self.cells.get((x, y))


class Row(BabaIsYouEnv):
    """5 x 3 cells; baba walks from (seed % 2, 1) to the ball at (4, 1), which wins. Up breaks "baba is you".

    At the first step env/make_win ends its process, env/make_win-distr_obj hangs, env/make_win-distr_rule raises;
    env/two_room-make_you hangs at the start.
    """

    width, height, max_steps = 5, 3, 6

    def __init__(self, task):
        self.task, self.start = task, 0
        if task == "env/two_room-make_you":
            time.sleep(600)

    def reset(self, *, seed=None):
        if seed is not None:
            self.start = seed % 2
        self.x, self.you = self.start, True
        self._lay()

    def step(self, action):
        if self.task == "env/make_win":
            os._exit(3)
        if self.task == "env/make_win-distr_obj":
            time.sleep(600)
        if self.task == "env/make_win-distr_rule":
            raise RuntimeError("the level\nis broken")
        self.x = min(4, max(0, self.x + {2: 1, 4: -1}.get(int(action), 0)))
        self.you = int(action) != 1
        won = self.x == 4
        self._lay()
        return None, 0.5 * won, won, {}

    def render(self, mode):
        assert mode == "rgb_array"
        picture = np.zeros((3, 5, 3), np.uint8)
        picture[1, self.x] = 255
        return picture

    def _lay(self):
        cells = {
            (0, 0): Cell("rule_object", name="fball"),
            (1, 0): Cell("rule_is", name="is"),
            (2, 0): Cell("rule_property", property="is_goal"),
            (4, 1): Cell("fball"),
            (3, 2): Cell("wall"),
        }
        cells[self.x, 1] = Cell("baba")
        rules = [{"object": "fball", "property": "is_goal"}, {"property": "is_goal"}]  # the second is incomplete
        rules += [{"object": "baba", "property": "is_agent"}] * self.you
        self.grid = Grid(cells, rules)
