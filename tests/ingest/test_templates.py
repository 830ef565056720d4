"""Template sets: parsing, withdrawal, damage; what a template says of itself."""

import struct
from contextlib import suppress

import pytest
from build import OVS, options_template, options_template9, template
from hypothesis import given
from hypothesis import strategies as st

from flowagent.elements import VARIABLE
from flowagent.errors import DecodeError
from flowagent.ingest.templates import MAX_FIELDS, SCOPE_PEN, FieldSpec, parse_template_set


def parse(body, version=10, *, options=False):
    return list(parse_template_set(body, version, options=options))


def test_several_templates_in_one_set():
    first, second = parse(template(256, (8, 4), (6876, 891, 1)) + template(300, (82, VARIABLE)))
    assert (first.id, first.fields) == (256, (FieldSpec(0, 8, 4), FieldSpec(6876, 891, 1)))
    assert (second.id, second.fields) == (300, (FieldSpec(0, 82, VARIABLE),))
    assert (first.is_variable, second.is_variable) == (False, True)
    assert (first.min_length, second.min_length) == (5, 1)
    assert not first.is_options


def test_v9_numbers_have_no_enterprise_bit():
    (found,) = parse(template(256, (0x8001, 4)), version=9)
    assert found.fields == (FieldSpec(0, 0x8001, 4),)


def test_ipfix_options():
    (found,) = parse(options_template(400, 1, (144, 4), (34, 4)), options=True)
    assert found.is_options
    assert (found.scope_count, found.fields) == (1, (FieldSpec(0, 144, 4), FieldSpec(0, 34, 4)))


def test_v9_options_have_scopes_of_their_own_number_space():
    (found,) = parse(options_template9(400, [(1, 4)], (34, 4)), 9, options=True)
    assert found.is_options
    assert found.fields == (FieldSpec(SCOPE_PEN, 1, 4), FieldSpec(0, 34, 4))


@pytest.mark.parametrize(("version", "make"), [(9, lambda f: options_template9(400, [], f)),
                                               (10, lambda f: options_template(400, 0, f))])  # fmt: skip
def test_options_without_a_scope_are_options_of_the_same_fields(version, make):
    (found,) = parse(make((34, 4)), version, options=True)
    assert found.is_options
    assert found.fields == (FieldSpec(0, 34, 4),)


@pytest.mark.parametrize("padding", [b"", b"\0", b"\0\0", b"\0\0\0", bytes(40)])
def test_padding(padding):
    assert [t.id for t in parse(template(256, (8, 4)) + padding)] == [256]


@pytest.mark.parametrize("options", [False, True])
def test_withdrawal_of_one(options):
    (found,) = parse(struct.pack("!HH", 256, 0), options=options)
    assert (found.id, found.field_count) == (256, 0)


@pytest.mark.parametrize(("number", "options"), [(2, False), (3, True)])
def test_withdrawal_of_all(number, options):
    found = parse(struct.pack("!HH", number, 0) + template(256, (8, 4)) * (not options), options=options)
    assert (found[0].id, found[0].field_count) == (number, 0)
    assert [t.id for t in found[1:]] == [256] * (not options)


@pytest.mark.parametrize(
    ("body", "version", "options"),
    [
        (template(256, (8, 4))[:-1], 10, False),
        (template(256, (8, 4), (12, 4))[:-4], 10, False),
        (template(256, (6876, 891, 1))[:-4], 10, False),
        (template(256, (8, 4), (12, 4))[:-4], 9, False),
        (struct.pack("!HH", 256, 65535), 10, False),
        (struct.pack("!HH", 256, 65535), 9, False),
        (struct.pack("!HH", 255, 1) + bytes(4), 10, False),
        (struct.pack("!HH", 3, 0), 10, False),
        (struct.pack("!HH", 256, 1), 10, True),
        (options_template(256, 3, (8, 4), (12, 4)), 10, True),
        (options_template9(256, [(1, 4)], (34, 4))[:-1], 9, True),
        (template(256, *[(8, 4)] * (MAX_FIELDS + 1)), 10, False),
    ],
)
def test_damage_is_one_error(body, version, options):
    with pytest.raises(DecodeError, match="bad_template"):
        parse(body, version, options=options)


def test_templates_before_the_damage_are_kept():
    found = []
    with pytest.raises(DecodeError):
        found.extend(parse_template_set(template(256, (8, 4)) + template(257, (8, 4))[:-1], 10, options=False))
    assert [t.id for t in found] == [256]


@given(
    st.lists(
        st.tuples(st.sampled_from([0, 6876, 29305, 2**32 - 1]), st.integers(0, 0x7FFF), st.integers(0, 65535)),
        min_size=1,
        max_size=40,
    )
)
def test_fields_come_out_as_they_went_in(fields):
    (found,) = parse(template(256, *((f[1:] if f[0] == 0 else f) for f in fields)))
    assert list(found.fields) == fields
    assert found.min_length == sum(1 if f[2] == VARIABLE else f[2] for f in fields)


@given(st.binary(max_size=200), st.sampled_from([9, 10]), st.booleans())
def test_any_bytes_give_sound_templates_or_the_one_error(body, version, options):
    found = []
    with suppress(DecodeError):
        found.extend(parse_template_set(body, version, options=options))
    for one in found:
        assert len(one.fields) == one.field_count
        assert one.is_ovs in (True, False)


def test_open_vswitch_is_told_by_its_head_and_times():
    (ovs,) = parse(template(256, *OVS))
    assert ovs.is_ovs
    for fields in (OVS[:6], OVS[1:], (*OVS[:6], (152, 8), (153, 8)), ((138, 4), (8, 4))):
        (other,) = parse(template(256, *fields))
        assert not other.is_ovs


def test_equal_bytes_are_the_same_template():
    assert parse(template(256, (8, 4))) == parse(template(256, (8, 4)))
    assert parse(template(256, (8, 4))) != parse(template(256, (8, 16)))
