"""Titles of items, for readable recommendations."""

from __future__ import annotations

GENRES = (
    "crime",
    "space",
    "romance",
    "history",
    "cooking",
    "travel",
    "horror",
    "poetry",
    "sport",
    "nature",
    "war",
    "music",
)

_ADJECTIVES = """
Amber Ashen Autumn Bitter Black Blind Blue Borrowed Brass Bright Broken Burning Cold Copper Crooked Crystal Dark
Distant Drowned Dusty Early Empty Endless Fallen False Final First Forgotten Frozen Gentle Gilded Glass Golden
Green Grey Hidden Hollow Hungry Iron Ivory Last Lonely Lost Midnight Narrow Northern Open Paper Patient Quiet
Restless Salt Scarlet Secret Silent Silver Sleeping Small Stolen Velvet Wandering White Wild Winter
"""

_NOUNS = """
Anchor Archive Arrow Bell Border Bridge Candle Cartographer Chair Circle City Clock Coast Compass Crossing
Daughter Door Echo Engine Feast Field Fire Garden Gate Ghost Guest Harbour Harvest Horizon House Hunter Island
Journey Key Kingdom Ladder Lake Lantern Letter Library Lighthouse Map Market Mirror Moon Mountain Oath Orchard
Passenger Promise Queen River Road Room Shadow Ship Song Station Storm Summer Table Tide Tower Witness
"""

_FIRST, _SECOND = _ADJECTIVES.split(), _NOUNS.split()


def title(number: int) -> str:
    """Return the title of the item with this number, from 0; different for each."""
    place, volume = number % (len(_FIRST) * len(_SECOND)), number // (len(_FIRST) * len(_SECOND))
    # 2,501 is coprime to 64 * 64, so neighbouring numbers get different titles and no title is repeated
    place = place * 2501 % (len(_FIRST) * len(_SECOND))
    name = f"{_FIRST[place // len(_SECOND)]} {_SECOND[place % len(_SECOND)]}"
    return name if volume == 0 else f"{name} {volume + 1}"
