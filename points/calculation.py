"""Points needed for a number of e-coupons (积分计算模块): count × ratio, rounded once on the total. Pure."""

from decimal import Decimal
from fractions import Fraction

from config.money import half_up

CEIL, HALF_UP, FLOOR = "CEIL", "HALF_UP", "FLOOR"


def points_needed(count: int, ratio: Decimal, rounding: str) -> int:
    """Points for ``count`` coupons at ``ratio`` points each: 3 × 333.33 is 1,000 rounded up, 7 × 12.5 is 88.

    :raises ValueError: for an unknown rounding.
    """
    exact = count * Fraction(ratio)
    if rounding == CEIL:
        return -(-exact.numerator // exact.denominator)
    if rounding == HALF_UP:
        return half_up(exact)
    if rounding == FLOOR:
        return exact.numerator // exact.denominator
    raise ValueError(f"no such rounding: {rounding}")


def share(points: int, count: int, ordinals: list[int]) -> int:
    """What some coupons of an exchange are worth in points when they are returned.

    The points of an exchange are spread over its coupons so that every set of returns adds up to no more than was
    taken, and all of them to exactly that: coupon k carries ⌊k·points/count⌋ − ⌊(k−1)·points/count⌋.
    """
    return sum(k * points // count - (k - 1) * points // count for k in ordinals)
