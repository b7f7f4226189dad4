import pytest

from tccctl.redaction import REDACTED, redacted

VALUE = {"card": {"number": "4111", "type": "visa"}, "items": [{"price": 1}, {"price": 2}], "email": "a@b"}


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("card.number", {"card": {"number": REDACTED, "type": "visa"}}),
        ("card", {"card": REDACTED}),
        ("items.*.price", {"items": [{"price": REDACTED}, {"price": REDACTED}]}),
        ("items.1.price", {"items": [{"price": 1}, {"price": REDACTED}]}),
        ("**.number", {"card": {"number": REDACTED, "type": "visa"}}),
        ("**.email", {"email": REDACTED}),
        ("**.items.**.price", {"items": [{"price": REDACTED}, {"price": REDACTED}]}),
        ("number", {}),
        ("card.number.digits", {}),
    ],
)
def test_a_path_redacts_only_what_it_matches(path: str, changed: dict) -> None:
    assert redacted(VALUE, [path]) == VALUE | changed


def test_paths_add_up_and_a_path_of_anything_hides_everything() -> None:
    both = redacted(VALUE, ["card.type", "**.price"])
    assert both["card"] == {"number": "4111", "type": REDACTED}
    assert both["items"] == [{"price": REDACTED}, {"price": REDACTED}]
    assert redacted(VALUE, ["**"]) == REDACTED


def test_the_value_itself_stays_as_it_is() -> None:
    before = repr(VALUE)
    redacted(VALUE, ["**.price", "card.number"])
    assert repr(VALUE) == before
