name_mapping = {"is_agent": "you", "is_goal": "win", "is": "is"}


class Cell:
    def __init__(self, type, name="", property=""):
        self.type, self.name, self.property = type, name, property
