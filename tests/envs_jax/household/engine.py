"""A slow household of dictionaries and words, after alfred.pddl: it reads commands as text and knows no arrays."""

OPENABLE = {"fridge", "cabinet", "microwave", "drawer", "safe"}
HOT = {"apple", "bread", "cup", "egg", "mug", "plate", "potato", "tomato"}
COOL = HOT | {"bowl", "lettuce", "pan", "pot", "winebottle"}
SLICE = {"apple", "bread", "egg", "lettuce", "potato", "tomato"}
CLEAN = {"apple", "bowl", "butterknife", "cloth", "cup", "dishsponge", "egg", "fork", "kettle", "knife", "ladle"}
CLEAN |= {"lettuce", "mug", "pan", "plate", "pot", "potato", "soapbar", "spatula", "spoon", "tomato"}
LAMPS = {"desklamp", "floorlamp"}
TREAT = {"heat": ("microwave", HOT), "cool": ("fridge", COOL), "clean": ("sinkbasin", CLEAN)}


def kind(name):
    return name.split()[0]


def listed(names):
    items = [("an " if n[0] in "aeiou" else "a ") + n for n in names]
    if not items:
        return "nothing."
    return items[0] + "." if len(items) == 1 else ", ".join(items[:-1]) + ", and " + items[-1] + "."


class Engine:
    """Places: object name -> receptacle name or "hand"; names in the order in which they are listed."""

    def __init__(self, receptacles, places, holds, task, target, goal, lamp):
        self.receptacles, self.places, self.holds = list(receptacles), dict(places), holds
        self.task, self.target, self.goal, self.lamp = task, target, goal, lamp
        self.here, self.opened, self.marks = None, set(), {name: set() for name in places}

    def inside(self, receptacle):
        return [o for o, place in self.places.items() if place == receptacle]

    def reach(self):
        return self.here is not None and (kind(self.here) not in OPENABLE or self.here in self.opened)

    def look(self):
        r = self.here
        if kind(r) in OPENABLE and r not in self.opened:
            return f"The {r} is closed."
        begin = f"The {r} is open. In it, you see " if kind(r) in OPENABLE else f"On the {r}, you see "
        return begin + listed(self.inside(r))

    def say(self, command):
        """The answer; None for a command that is no command here."""
        if command is None:
            return "Nothing happens."
        words, hand = command.split(), self.inside("hand")
        verb = words[0] if words[0] != "go" else "go to"
        rest = command[len(verb) + 1 :]
        here, near = self.here, (self.inside(self.here) if self.reach() else [])
        if verb == "look":
            if here is None:
                return "You are in the middle of a room. Looking quickly around you, you see " + listed(
                    self.receptacles
                )
            return f"You are facing the {here}. Next to it, you see nothing."
        if verb == "inventory":
            return "You are carrying: " + listed(hand) if hand else "You are not carrying anything."
        if verb == "help":
            return "help"
        if verb == "go to" and rest in self.receptacles and rest != here:
            self.here = rest
            return f"You arrive at {rest}. " + self.look()
        if verb == "open" and rest == here and kind(here) in OPENABLE and here not in self.opened:
            self.opened.add(here)
            return f"You open the {here}. " + self.look()
        if verb == "close" and rest == here and here in self.opened:
            self.opened.remove(here)
            return f"You close the {here}."
        if verb == "take":
            o, r = rest.split(" from ")
            if r == here and o in near and not hand and kind(o) not in LAMPS:
                self.places[o] = "hand"
                return f"You pick up the {o} from the {r}."
        if verb == "move":
            o, r = rest.split(" to ")
            if r == here and o in hand and self.reach() and kind(o) in self.holds[kind(r)].split():
                self.places[o] = r
                return f"You move the {o} to the {r}."
        if verb in TREAT:
            o, r = rest.split(" with ")
            tool, able = TREAT[verb]
            if r == here and kind(r) == tool and o in hand and kind(o) in able:
                self.marks[o] -= {"heat", "cool"} if verb != "clean" else set()
                self.marks[o].add(verb)
                return f"You {verb} the {o} using the {r}."
        if verb == "use" and rest in near and kind(rest) in LAMPS:
            self.marks[rest].add("on")
            return f"You turn on the {rest}."
        if verb == "slice":
            o, k = rest.split(" with ")
            if (
                o in near
                and kind(o) in SLICE
                and "slice" not in self.marks[o]
                and k in hand
                and "knife" in kind(k)
            ):
                self.marks[o].add("slice")
                return f"You sliced the {o} with the {k}."
        if verb == "examine":
            if rest == here:
                return self.look()
            if rest in near or rest in hand:
                return self.examine(rest)
        return "Nothing happens."

    def examine(self, o):
        marks = self.marks[o]
        if kind(o) in LAMPS:
            return f"This {o} is {'on' if 'on' in marks else 'off'}."
        cold = "cool" if marks & {"clean", "slice"} else "cold"
        heat = ["hot"] if "heat" in marks else [cold] if "cool" in marks else []
        text = " and ".join(heat + ["clean"] * ("clean" in marks)) + " sliced" * ("slice" in marks)
        return f"This is a {text.strip()} {o}." if text else f"There's nothing special about {o}."

    def won(self):
        wanted = [o for o in self.places if kind(o) == self.target]
        there = [o for o in wanted if self.places[o] != "hand" and kind(self.places[o]) == self.goal]
        if self.task == "look_in_light":
            lit = any(kind(o) == self.lamp and "on" in self.marks[o] for o in self.inside(self.here))
            return lit and any(self.places[o] == "hand" for o in wanted)
        if self.task == "pick_two":
            homes = [self.places[o] for o in there]
            return len(homes) > len(set(homes))
        verb = self.task.removesuffix("_and_place")
        return any(verb == "pick" or verb in self.marks[o] for o in there)
