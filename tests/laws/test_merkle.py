"""Merkle trees against the recursive definition of RFC 9162, and against tampering."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qflare import merkle, proofs
from qflare.faults import LocalFault, PeerFault, Reason
from qflare.names import Digest

LEAVES = st.lists(st.binary(max_size=4), max_size=70)


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def mth(leaves: list[bytes]) -> bytes:
    if not leaves:
        return sha(b"")
    if len(leaves) == 1:
        return sha(b"\x00" + leaves[0])
    k = split(len(leaves))
    return sha(b"\x01" + mth(leaves[:k]) + mth(leaves[k:]))


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    n = len(leaves)
    if m == n:
        return [] if whole else [mth(leaves)]
    k = split(n)
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


@given(LEAVES)
def test_the_root_is_the_one_of_the_definition(leaves: list[bytes]) -> None:
    want = Digest(mth(leaves))
    assert merkle.root(leaves) == want
    assert proofs.Tree(leaves).root() == want


@given(LEAVES.filter(bool), st.data())
def test_inclusion_proofs_are_the_definition_s_and_verify(
    leaves: list[bytes], data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = proofs.inclusion_proof(leaves, index)
    assert [d.raw for d in proof] == path(index, leaves)
    proofs.verify_inclusion(leaves[index], index, len(leaves), proof, merkle.root(leaves))


@given(LEAVES.filter(bool), st.data())
def test_consistency_proofs_are_the_definition_s_and_verify(
    leaves: list[bytes], data: st.DataObject
) -> None:
    old = data.draw(st.integers(1, len(leaves)))
    proof = proofs.consistency_proof(leaves, old)
    assert [d.raw for d in proof] == subproof(old, leaves, True)
    proofs.verify_consistency(
        old, merkle.root(leaves[:old]), len(leaves), merkle.root(leaves), proof
    )


def test_every_pair_of_sizes_up_to_forty() -> None:
    leaves = [bytes([i]) for i in range(40)]
    roots = [merkle.root(leaves[:n]) for n in range(41)]
    for new in range(41):
        tree = proofs.Tree(leaves[:new])
        for index in range(new):
            proof = tree.inclusion_proof(index)
            proofs.verify_inclusion(leaves[index], index, new, proof, roots[new])
        for old in range(new + 1):
            proof = tree.consistency_proof(old)
            proofs.verify_consistency(old, roots[old], new, roots[new], proof)


def flip(digest: Digest, bit: int) -> Digest:
    raw = bytearray(digest.raw)
    raw[bit // 8] ^= 1 << bit % 8
    return replace(digest, raw=bytes(raw))


def tampered(proof: proofs.Proof, data: st.DataObject) -> proofs.Proof:
    nodes = list(proof)
    kinds = ["longer"] + (["flip", "shorter", "swap"] if nodes else [])
    match data.draw(st.sampled_from(kinds)):
        case "longer":
            nodes.insert(data.draw(st.integers(0, len(nodes))), merkle.EMPTY_ROOT)
        case "flip":
            at = data.draw(st.integers(0, len(nodes) - 1))
            nodes[at] = flip(nodes[at], data.draw(st.integers(0, 255)))
        case "shorter":
            nodes.pop(data.draw(st.integers(0, len(nodes) - 1)))
        case "swap":
            nodes.reverse()
    return tuple(nodes)


@given(LEAVES.filter(bool), st.data())
def test_a_tampered_inclusion_proof_is_refused(leaves: list[bytes], data: st.DataObject) -> None:
    size, root = len(leaves), merkle.root(leaves)
    index = data.draw(st.integers(0, size - 1))
    proof = proofs.inclusion_proof(leaves, index)
    other = tampered(proof, data)
    assume(other != proof)
    for bad in (
        (leaves[index], index, size, other, root),
        (leaves[index] + b"x", index, size, proof, root),
        (leaves[index], index, size, proof, flip(root, 7)),
        (leaves[index], -1, size, proof, root),
        (leaves[index], size, size, proof, root),
    ):
        with pytest.raises(PeerFault) as caught:
            proofs.verify_inclusion(*bad)
        assert caught.value.reason is Reason.BAD_PROOF


@given(st.lists(st.integers(0, 2**16), unique=True, min_size=2, max_size=70), st.data())
def test_a_leaf_proves_its_own_place_and_no_other(numbers: list[int], data: st.DataObject) -> None:
    leaves = [str(n).encode() for n in numbers]
    index = data.draw(st.integers(0, len(leaves) - 1))
    other = data.draw(st.integers(0, len(leaves) - 1).filter(lambda i: i != index))
    proof = proofs.inclusion_proof(leaves, index)
    with pytest.raises(PeerFault):
        proofs.verify_inclusion(leaves[index], other, len(leaves), proof, merkle.root(leaves))


@given(LEAVES.filter(bool), st.data())
def test_a_tampered_consistency_proof_is_refused(leaves: list[bytes], data: st.DataObject) -> None:
    new_size, new_root = len(leaves), merkle.root(leaves)
    old_size = data.draw(st.integers(0, new_size))
    old_root = merkle.root(leaves[:old_size])
    proof = proofs.consistency_proof(leaves, old_size)
    other = tampered(proof, data)
    assume(other != proof)
    bad = [
        (old_size, old_root, new_size, new_root, other),
        (old_size, flip(old_root, 9), new_size, new_root, proof),
        (-1, old_root, new_size, new_root, proof),
        (new_size + 1, old_root, new_size, new_root, proof),
    ]
    if old_size:  # any tree at all begins with the empty one
        bad.append((old_size, old_root, new_size, flip(new_root, 9), proof))
    for case in bad:
        with pytest.raises(PeerFault) as caught:
            proofs.verify_consistency(*case)
        assert caught.value.reason is Reason.BAD_PROOF


@given(LEAVES.filter(lambda leaves: len(leaves) > 1), st.data())
def test_a_rewritten_log_can_t_be_shown_consistent(
    leaves: list[bytes], data: st.DataObject
) -> None:
    old_size = data.draw(st.integers(1, len(leaves)))
    at = data.draw(st.integers(0, old_size - 1))
    rewritten = [*leaves[:at], leaves[at] + b"!", *leaves[at + 1 :]]
    proof = proofs.consistency_proof(rewritten, old_size)
    with pytest.raises(PeerFault):
        proofs.verify_consistency(
            old_size, merkle.root(leaves[:old_size]), len(leaves), merkle.root(rewritten), proof
        )


@given(
    st.integers(-3, 2**64),
    st.integers(-3, 2**64),
    st.lists(st.binary(min_size=32, max_size=32).map(Digest), max_size=70).map(tuple),
)
def test_garbage_proofs_are_peer_faults(a: int, b: int, proof: proofs.Proof) -> None:
    with pytest.raises(PeerFault):
        proofs.verify_inclusion(b"leaf", a, b, proof, merkle.EMPTY_ROOT)
    with pytest.raises(PeerFault):
        proofs.verify_consistency(a, merkle.leaf_hash(b""), b, merkle.leaf_hash(b"x"), proof)


def test_asking_a_tree_for_what_it_has_not() -> None:
    tree = proofs.Tree([b"one"])
    with pytest.raises(LocalFault):
        tree.inclusion_proof(1)
    with pytest.raises(LocalFault):
        tree.consistency_proof(2)


# The eight inputs and the roots that certificate-transparency implementations are tested with
# (published with RFC 6962's reference implementation, Apache-2.0).
CT_LEAVES = [
    bytes.fromhex(leaf)
    for leaf in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_the_roots_of_certificate_transparency(size: int) -> None:
    assert str(merkle.root(CT_LEAVES[:size])) == CT_ROOTS[size]
