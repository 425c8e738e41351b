"""The coefficients of the simulated process, each with its meaning."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """What users and authors are like. docs/simulator.md gives the formulas that these numbers stand in.

    Rates are per viewer and 30 seconds, as natural logarithms; `*_spread` are standard deviations of a normal
    distribution over users or authors in the same (log or logit) unit.
    """

    # Entry: logit of entering a room that is shown.
    entry: float = -2.9
    entry_user_spread: float = 1.6
    mood_spread: float = 1.1  # of a visit as a whole
    entry_author_spread: float = 0.75
    entry_match: float = 0.6  # per unit of match between the user's taste and what is shown now
    entry_follow: float = 1.7
    entry_heat: float = 0.2

    # Staying: log hazard of leaving, per 30 seconds.
    bounce: float = 0.2  # share of entries that leave within ten seconds
    leave: float = -1.15
    leave_user_spread: float = 0.6
    leave_author_spread: float = 0.3
    leave_match: float = 0.45
    leave_heat: float = 1.9
    leave_follow: float = 0.7

    # Likes, comments, gifts, follows, shares: log rates.
    like: float = -3.0
    like_user_spread: float = 1.8
    like_author_spread: float = 0.5
    like_buzz: float = 2.5
    like_heat: float = 0.5
    comment: float = -3.0
    comment_user_spread: float = 1.5
    comment_author_spread: float = 0.5
    comment_buzz: float = 2.5
    gift_payer_share: float = 0.07
    gift: float = -3.5
    gift_user_spread: float = 0.9
    gift_author_spread: float = 1.2
    gift_follow: float = 2.5  # on top of engaged_follow
    gift_heat: float = 2.2
    follow: float = -4.6
    follow_user_spread: float = 1.2
    follow_heat: float = 1.3
    share: float = -6.2
    share_user_spread: float = 1.5
    share_heat: float = 1.3
    engaged_match: float = 0.35  # per unit of match, in all five
    engaged_follow: float = 1.0  # for users who follow the author, in likes, comments and gifts

    # Shopping rooms: log rates of clicks on the explained product and on the cart, and what becomes of a click.
    shopping_author_share: float = 0.4
    shopper_share: float = 0.3
    product_click: float = -0.2
    product_click_spread: float = 0.7
    product_click_other: float = -3.0  # added to the log rate of those who are no shoppers
    product_click_heat: float = 0.6
    cart_click_share: float = 0.35  # cart clicks per product click
    order_share: float = 0.05  # orders per product click at heat 0
    order_heat: float = 1.5

    # Highlights, in windows of 30 seconds. Buzz rises evenly over the build-up, heat with its cube.
    quiet_windows: float = 9.0
    build_up_windows: float = 6.0
    peak_windows: float = 4.0
    decay_windows: float = 2.0
    highlight_size_spread: float = 0.35
    lull: float = 0.7  # depth of the lull after a highlight, as a share of its size

    # Recommendation: how the platform picks among candidate rooms.
    popularity_spread: float = 1.7
    ranking_match: float = 0.5
    ranking_follow: float = 1.4
    ranking_buzz: float = 0.8
