"""What the name of a column says: words that numbers bear which are codes and not quantities."""

from __future__ import annotations

import re

ROW_WORDS = frozenset("id ids uid uuid guid key pk rowid rownames rowname rownum row index idx unnamed".split())
"""Names of rows, records and persons: a column of them that is nearly unique is an identifier."""

CODE_WORDS = frozenset(
    "code codes cd zip zipcode postcode postal plz phone telephone tel mobile fax fips iso sic naics isbn ean upc gtin "
    "sku barcode iban vin plate account acct store shop branch flight route gate terminal room ward precinct district "
    "region zone cluster class category grp label station sensor channel port".split()
)
"""What is numbered and not counted: the sum of two of them means nothing."""

NUMBER_WORDS = frozenset("number num no nr".split())
"""As the last word they say that things are numbered (`license_number`); before others that they are counted
(`num_doors`)."""

TIME_WORDS = frozenset("time timestamp date datetime created updated at ts epoch modified".split())
"""Of moments: a large whole number under such a name is one, in seconds or milliseconds since 1970."""


def split_name(name: str) -> list[str]:
    """The words of a name, in lower case: `zip_code`, `zipCode` and `ZIP code` are the same two."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word.lower() for word in re.findall(r"[A-Za-z]+|\d+", apart)]


def names_rows(name: str) -> bool:
    """True of the name of an identifier."""
    words = split_name(name)
    return bool(words) and (not ROW_WORDS.isdisjoint(words) or words[-1] in NUMBER_WORDS)


def names_codes(name: str) -> bool:
    """True of the name of something that is numbered."""
    words = split_name(name)
    return bool(words) and (
        words[-1] in CODE_WORDS
        or words[0] == "zip"
        or words[-1] in NUMBER_WORDS - {"num"}
        or words[-1] in ("id", "uid", "key")
    )


def names_time(name: str) -> bool:
    """True of the name of a moment."""
    return not TIME_WORDS.isdisjoint(split_name(name))


def names_year(name: str) -> bool:
    """True of the name of a year."""
    return not {"year", "years", "yr", "jahr"}.isdisjoint(split_name(name))
