"""Groups: every parameter in exactly one of 2 to 64, whatever the model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st
from torch import empty, nn
from torch.optim import SGD

from trimtab import InputError
from trimtab.probes.groups import MAX_GROUPS, assign_groups, name_groups
from trimtab.probes.subject import Subject


class Block(nn.Module):
    """A residual block, as of a ResNet or a transformer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)


class ResNet(nn.Module):
    """A stem, stages of convolutions with normalization, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.bn = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.layer2 = nn.Sequential(Block(), Block())
        self.fc = nn.Linear(8, 10)


class Transformer(nn.Module):
    """An embedding, a list of blocks, and a head that may share the embedding's weight."""

    def __init__(self, num_blocks: int = 3, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(num_blocks))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        if tied:
            self.head.weight = self.embed.weight


class Wrapper(nn.Module):
    """A module with one child, as of distributed training or a compiled model."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Raw(nn.Module):
    """A module without children that owns its parameters itself."""

    def __init__(self, num_parameters: int) -> None:
        super().__init__()
        for index in range(num_parameters):
            self.register_parameter(f"w{index}", nn.Parameter(empty(2)))


def list_groups(model: nn.Module) -> list[str]:
    """The groups of a model, each once; asserts that every parameter is in one, and nothing else is."""
    members = assign_groups(model)
    assert list(members) == [name for name, _ in model.named_parameters()]
    return list(dict.fromkeys(members.values()))


@pytest.mark.parametrize(
    ("build", "groups"),
    [
        pytest.param(lambda: nn.Linear(2, 2), "weight bias", id="single-linear"),
        pytest.param(lambda: nn.Linear(2, 2, bias=False), "weight", id="single-parameter"),
        pytest.param(lambda: nn.Sequential(nn.Linear(2, 9), nn.ReLU(), nn.Linear(9, 2)), "0 2", id="mlp"),
        pytest.param(lambda: Wrapper(nn.Sequential(Raw(1), Raw(1))), "module.0 module.1", id="wrapper"),
        pytest.param(lambda: Wrapper(Wrapper(Raw(2))), "module.module.w0 module.module.w1", id="wrapper-of-a-wrapper"),
        pytest.param(ResNet, "stem bn layer1.0 layer1.1 layer1.3 layer2.0 layer2.1 fc", id="resnet"),
        pytest.param(Transformer, "embed blocks.0 blocks.1 blocks.2 norm head", id="transformer"),
        pytest.param(lambda: Wrapper(Transformer(1)), "module.embed module.blocks.0.norm module.blocks.0.up "
                     "module.blocks.0.down module.norm module.head", id="block-that-owns-more-than-half"),
        pytest.param(lambda: Transformer(tied=True), "embed blocks.0 blocks.1 blocks.2 norm", id="tied-weights-once"),
        pytest.param(lambda: Raw(3), "w0 w1 w2", id="no-children"),
        pytest.param(lambda: nn.Sequential(Raw(1), nn.Identity(), Raw(2)), "0 2", id="children-without-parameters"),
        pytest.param(lambda: nn.ParameterDict({"a": empty(1), "b": empty(1)}), "a b", id="dictionary"),
    ],
)  # fmt: skip
def test_groups_are_the_models_own_modules(build: Callable[[], nn.Module], groups: str) -> None:
    """By default the groups are the children of a model, those that only hold others opened."""
    assert list_groups(build()) == groups.split()


def test_tied_weight_is_one_group_with_what_is_left() -> None:
    """Two modules that share their only weight are one parameter; it is split off from nothing."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    assert assign_groups(model) == {"0.weight": "0.weight"}


@pytest.mark.parametrize(
    ("build", "first", "last"),
    [
        pytest.param(
            lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(200))), "0 … 3", "197 … 199", id="200-layers"
        ),
        pytest.param(lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(65))), "0 … 1", "64", id="one-too-many"),
        pytest.param(lambda: Raw(200), "w0 … w3", "w197 … w199", id="200-parameters"),
    ],
)
def test_neighbours_are_joined_beyond_64(build: Callable[[], nn.Module], first: str, last: str) -> None:
    """A model of more modules has 64 groups of neighbours, called by the first and the last."""
    groups = list_groups(build())
    assert (len(groups), groups[0], groups[-1]) == (MAX_GROUPS, first, last)


BUILDERS: list[Callable[[], nn.Module]] = [nn.ReLU, lambda: nn.Linear(1, 1), Block, lambda: Raw(5), lambda: Raw(70)]

models = st.recursive(
    st.sampled_from(BUILDERS).map(lambda build: build()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(nn.ModuleList),
        st.lists(inner, max_size=20).map(lambda modules: nn.Sequential(*modules)),
        inner.map(Wrapper),
        inner.map(lambda module: nn.ModuleList([module, module])),
        st.tuples(inner, inner).map(lambda pair: tie(*pair)),
    ),
    max_leaves=20,
)


def tie(first: nn.Module, second: nn.Module) -> nn.Module:
    """Both modules side by side, the first parameter of the second being the first of the first."""
    for (name, _), shared in zip([*second.named_parameters()][:1], first.parameters(), strict=False):
        owner, _, key = name.rpartition(".")
        second.get_submodule(owner).register_parameter(key, shared)
    return nn.Sequential(first, second)


@settings(deadline=None)
@given(model=models)
def test_every_parameter_is_in_one_of_2_to_64_groups(model: nn.Module) -> None:
    """Whatever is nested in what, shared or empty, every parameter is in exactly one of 2 to 64 groups."""
    num_parameters = len(list(model.parameters()))
    assert min(num_parameters, 2) <= len(list_groups(model)) <= MAX_GROUPS


@pytest.mark.parametrize(
    ("grouping", "groups"),
    [
        pytest.param(["embed", "blocks"], {"embed": 1, "blocks": 18, "(other)": 3}, id="names"),
        pytest.param(["embed", "blocks", "norm", "head"], {"embed": 1, "blocks": 18, "norm": 2, "head": 1}, id="all"),
        pytest.param({"ends": ["embed", "head"]}, {"ends": 2, "(other)": 20}, id="table"),
        pytest.param({"ends": "head"}, {"ends": 1, "(other)": 21}, id="table-with-a-name-as-text"),
        pytest.param(["norm.weight"], {"norm.weight": 1, "(other)": 21}, id="parameter"),
        pytest.param(["blocks.1", "blocks"], {"blocks.1": 6, "blocks": 12, "(other)": 4}, id="first-name-wins"),
    ],
)
def test_groups_given_by_name(grouping: list[str] | dict[str, list[str]], groups: dict[str, int]) -> None:
    """Names of modules or parameters are groups; what none of them covers is a group of its own."""
    members = list(name_groups(Transformer(), grouping).values())
    assert {group: members.count(group) for group in members} == groups


@pytest.mark.parametrize(
    ("grouping", "message"),
    [
        pytest.param(
            ["embed", "decoder"],
            "groups: no parameter is called 'decoder' or begins with it; the model has embed, blocks, norm, head",
            id="no-such-module",
        ),
        pytest.param(
            {"ends": ["emb"]},
            "groups: no parameter is called 'emb' or begins with it; the model has embed, blocks, norm, head",
            id="part-of-a-name",
        ),
    ],
)
def test_unknown_name_is_refused(grouping: list[str] | dict[str, list[str]], message: str) -> None:
    """A name that matches no parameter is an error that lists what the model has."""
    with pytest.raises(InputError) as caught:
        name_groups(Transformer(), grouping)
    assert str(caught.value) == message


def test_every_group_has_a_parameter() -> None:
    """No group of a supervised model is empty: a tied weight leaves none behind."""
    model = Transformer(tied=True)
    subject = Subject(model, SGD(model.parameters()))
    assert {*subject.group_of} == {*range(len(subject.groups))}
