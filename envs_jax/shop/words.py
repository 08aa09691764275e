"""What the shop's catalogue is made of: kinds of goods, what is said of them, and what may be chosen.

Plain English words, written for this project; no brands, nothing taken from WebShop's scraped products. A word is
one token of the search engine, so none holds a space. A value belongs to one option group and stands in no text of
a product: a click on it names one option, and a purchase is never credited with what nobody asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

# Colours as they are painted, red, green, blue.
COLORS = {
    "red": (204, 34, 41),
    "orange": (240, 130, 20),
    "yellow": (245, 205, 30),
    "green": (40, 150, 60),
    "blue": (35, 90, 200),
    "purple": (125, 60, 170),
    "pink": (240, 130, 175),
    "brown": (125, 75, 40),
    "black": (35, 35, 38),
    "gray": (135, 135, 140),
    "white": (236, 236, 232),
    "beige": (215, 195, 160),
    "navy": (20, 35, 95),
    "teal": (15, 125, 130),
    "crimson": (150, 10, 45),
    "olive": (110, 115, 40),
}
# A shade counts as its base when options are compared, as in upstream's colour normalisation.
SHADES = {"navy": "blue", "teal": "green", "crimson": "red", "olive": "green"}

# Option groups and their values.
OPTIONS = {
    "color": tuple(COLORS),
    "size": ("x-small", "small", "medium", "large", "x-large", "xx-large"),
    "fit": ("slim", "regular", "relaxed", "petite", "tall"),
    "width": ("narrow", "standard", "wide"),
    "bed": ("twin", "full", "queen", "king"),
    "finish": ("matte", "glossy", "satin", "brushed", "antique"),
    "count": ("single", "pair", "four", "six", "dozen"),
    "scent": ("lavender", "vanilla", "lemon", "rose", "mint", "cedar"),
    "flavor": ("cocoa", "cherry", "mango", "ginger", "honey", "peach"),
    "memory": ("32gb", "64gb", "128gb", "256gb", "512gb"),
    "length": ("1-foot", "3-foot", "6-foot", "10-foot"),
    "weight": ("4-ounce", "8-ounce", "1-pound", "2-pound", "5-pound"),
    "grade": ("soft", "firm", "hard"),
}

# What a thing may be meant for, by department.
USES = {
    "clothing": ("summer", "winter", "work", "party", "school", "travel"),
    "home": ("kitchen", "bedroom", "office", "garden", "hotel", "gift"),
    "electronics": ("office", "travel", "gaming", "school", "music", "gift"),
    "outdoor": ("camping", "garden", "beach", "travel", "summer", "winter"),
    "beauty": ("travel", "gift", "salon", "hotel", "summer", "winter"),
    "grocery": ("breakfast", "party", "gift", "office", "school", "holiday"),
    "toys": ("school", "party", "gift", "garden", "beach", "holiday"),
}


@dataclass(frozen=True)
class Kind:
    """Goods of one kind, "table lamp".

    Attributes:
      department, section: the upper two of the three names in the category's path; the nouns are the third.
      nouns: two words, the last of which says what it is; this one is also the product's query.
      icon: of `icons.SHAPES`.
      price: least and greatest, dollars.
    """

    department: str
    section: str
    nouns: tuple[str, str]
    icon: str
    price: tuple[int, int]


@dataclass(frozen=True)
class Section:
    """What the goods of one section have in common: attributes, option groups."""

    attributes: tuple[str, ...]
    groups: tuple[str, ...]


SECTIONS = {
    ("clothing", "tops"): Section(
        ("cotton", "linen", "washable", "breathable", "stretchy", "sleeveless", "hooded", "striped", "knitted"),
        ("color", "size", "fit"),
    ),
    ("clothing", "bottoms"): Section(
        ("cotton", "denim", "washable", "stretchy", "pleated", "lined", "pocketed", "elastic", "striped"),
        ("color", "size", "fit"),
    ),
    ("clothing", "shoes"): Section(
        ("leather", "suede", "waterproof", "cushioned", "nonslip", "breathable", "laced", "lightweight", "padded"),
        ("color", "size", "width"),
    ),
    ("clothing", "accessories"): Section(
        ("leather", "woolen", "knitted", "reversible", "adjustable", "handmade", "lightweight", "lined"),
        ("color", "size"),
    ),
    ("home", "furniture"): Section(
        ("wooden", "metal", "foldable", "adjustable", "stackable", "padded", "sturdy", "assembled", "rustic"),
        ("color", "finish"),
    ),
    ("home", "bedding"): Section(
        ("cotton", "linen", "quilted", "washable", "hypoallergenic", "cooling", "woolen", "reversible"),
        ("color", "bed", "grade"),
    ),
    ("home", "lighting"): Section(
        ("dimmable", "adjustable", "metal", "wooden", "rechargeable", "sturdy", "rustic", "wireless"),
        ("color", "finish"),
    ),
    ("home", "kitchenware"): Section(
        ("ceramic", "steel", "nonstick", "insulated", "stackable", "handmade", "heatproof", "lidded", "glass"),
        ("color", "count"),
    ),
    ("electronics", "audio"): Section(
        ("wireless", "rechargeable", "foldable", "waterproof", "noiseless", "lightweight", "padded", "portable"),
        ("color",),
    ),
    ("electronics", "computers"): Section(
        ("portable", "wireless", "rechargeable", "ergonomic", "backlit", "compact", "fanless", "silent"),
        ("color", "memory"),
    ),
    ("electronics", "cables"): Section(
        ("braided", "fast", "reversible", "magnetic", "flexible", "shielded", "compact", "durable"),
        ("color", "length"),
    ),
    ("outdoor", "shelter"): Section(
        ("waterproof", "insulated", "foldable", "lightweight", "ventilated", "portable", "sturdy", "lined"),
        ("color", "size"),
    ),
    ("outdoor", "gear"): Section(
        ("waterproof", "rechargeable", "adjustable", "durable", "portable", "compact", "sturdy", "padded"),
        ("color",),
    ),
    ("beauty", "bath"): Section(
        ("vegan", "organic", "fragrant", "gentle", "moisturizing", "refillable", "handmade", "soothing"),
        ("scent", "count"),
    ),
    ("beauty", "hair"): Section(
        ("vegan", "gentle", "sulfate-free", "moisturizing", "ergonomic", "portable", "wooden", "ionic"),
        ("scent", "grade"),
    ),
    ("grocery", "drinks"): Section(
        ("organic", "decaf", "unsweetened", "instant", "vegan", "fermented", "roasted", "caffeinated"),
        ("flavor", "weight"),
    ),
    ("grocery", "snacks"): Section(
        ("organic", "gluten-free", "salted", "roasted", "vegan", "crunchy", "low-sugar", "keto"),
        ("flavor", "weight"),
    ),
    ("toys", "games"): Section(
        ("wooden", "educational", "magnetic", "foldable", "washable", "portable", "colorful", "durable"),
        ("color", "count"),
    ),
    ("toys", "dolls"): Section(
        ("plush", "washable", "handmade", "knitted", "huggable", "talking", "colorful", "wooden"),
        ("color", "size"),
    ),
}

# Which kinds stand first matters: a world of few kinds takes the first ones, which differ well.
KINDS = tuple(
    Kind(department, section, (modifier, noun), icon, price)
    for department, section, modifier, noun, icon, price in (
        ("clothing", "tops", "tank", "shirt", "shirt", (8, 60)),
        ("home", "kitchenware", "tea", "mug", "mug", (4, 40)),
        ("home", "lighting", "table", "lamp", "lamp", (15, 120)),
        ("clothing", "shoes", "running", "shoe", "shoe", (25, 140)),
        ("outdoor", "gear", "hiking", "backpack", "bag", (20, 140)),
        ("toys", "dolls", "teddy", "bear", "bear", (8, 60)),
        ("home", "furniture", "dining", "chair", "chair", (30, 148)),
        ("grocery", "drinks", "coffee", "bean", "pouch", (5, 40)),
        ("electronics", "audio", "studio", "headphone", "headphone", (18, 148)),
        ("beauty", "bath", "hand", "soap", "soap", (2, 30)),
        ("clothing", "tops", "dress", "shirt", "shirt", (15, 90)),
        ("clothing", "tops", "wool", "sweater", "shirt", (20, 120)),
        ("clothing", "tops", "rain", "jacket", "shirt", (25, 145)),
        ("clothing", "tops", "evening", "dress", "dress", (25, 145)),
        ("clothing", "bottoms", "cargo", "pant", "pants", (15, 90)),
        ("clothing", "bottoms", "yoga", "pant", "pants", (12, 70)),
        ("clothing", "bottoms", "tennis", "skirt", "skirt", (12, 70)),
        ("clothing", "bottoms", "swim", "short", "shorts", (10, 50)),
        ("clothing", "shoes", "ankle", "boot", "boot", (35, 148)),
        ("clothing", "shoes", "house", "slipper", "shoe", (8, 45)),
        ("clothing", "accessories", "baseball", "hat", "hat", (6, 40)),
        ("clothing", "accessories", "neck", "scarf", "scarf", (6, 60)),
        ("clothing", "accessories", "ski", "glove", "glove", (8, 70)),
        ("home", "furniture", "coffee", "table", "table", (35, 148)),
        ("home", "furniture", "bar", "stool", "stool", (25, 120)),
        ("home", "furniture", "book", "shelf", "shelf", (30, 148)),
        ("home", "bedding", "bath", "towel", "towel", (6, 50)),
        ("home", "bedding", "throw", "pillow", "pillow", (8, 60)),
        ("home", "bedding", "picnic", "blanket", "towel", (15, 100)),
        ("home", "lighting", "ceiling", "lamp", "pendant", (20, 140)),
        ("home", "lighting", "desk", "light", "lamp", (12, 90)),
        ("home", "kitchenware", "frying", "pan", "pan", (12, 90)),
        ("home", "kitchenware", "water", "bottle", "bottle", (6, 50)),
        ("home", "kitchenware", "soup", "bowl", "bowl", (4, 45)),
        ("home", "kitchenware", "paring", "knife", "knife", (5, 60)),
        ("electronics", "audio", "floor", "speaker", "speaker", (15, 148)),
        ("electronics", "audio", "clip", "microphone", "microphone", (10, 120)),
        ("electronics", "computers", "tablet", "computer", "screen", (60, 148)),
        ("electronics", "computers", "desk", "keyboard", "keyboard", (12, 120)),
        ("electronics", "computers", "flash", "drive", "stick", (5, 80)),
        ("electronics", "cables", "charging", "cable", "cable", (3, 35)),
        ("electronics", "cables", "speaker", "cable", "cable", (4, 50)),
        ("outdoor", "shelter", "dome", "tent", "tent", (40, 148)),
        ("outdoor", "shelter", "sleeping", "bag", "pillow", (20, 140)),
        ("outdoor", "gear", "camp", "lamp", "lantern", (8, 80)),
        ("outdoor", "gear", "trail", "watch", "watch", (20, 148)),
        ("beauty", "bath", "body", "lotion", "bottle", (4, 50)),
        ("beauty", "bath", "pillar", "candle", "candle", (4, 45)),
        ("beauty", "hair", "curl", "shampoo", "bottle", (4, 45)),
        ("beauty", "hair", "detangling", "brush", "brush", (4, 40)),
        ("grocery", "drinks", "herb", "tea", "pouch", (3, 35)),
        ("grocery", "drinks", "fruit", "juice", "bottle", (2, 25)),
        ("grocery", "snacks", "nut", "bar", "pouch", (2, 30)),
        ("grocery", "snacks", "rice", "cracker", "box", (2, 20)),
        ("toys", "games", "board", "game", "box", (8, 70)),
        ("toys", "games", "building", "block", "block", (6, 80)),
        ("toys", "games", "soccer", "ball", "ball", (6, 45)),
        ("toys", "dolls", "rag", "doll", "bear", (6, 55)),
    )
)

# What buyers wrote, by stars: 1 to 5.
REVIEWS = (
    ("broke after a day", "not what I wanted"),
    ("worse than it looks", "came late"),
    ("fair for the price", "does its job"),
    ("good value", "works well"),
    ("I would buy it again", "the best I have had"),
)
