"""Cascades of Einsums by name: attention in the ways of Nayak et al. ("FuseMax", MICRO 2024), softmax and norms by themselves.

Written as text, one Einsum a line: `SN[m,p] = exp_minus(QK[m,p], GM[p])`, with `sum` or `max` before a function whose output
lacks ranks. `[m1-1,p]` is the tensor one tile before (`from -inf`: its value before the first), `[$m1,p]` the one of the last
tile. Ranks: p queries, m keys (m1 tiles of m0), e and f widths of heads, r rows. Scores are scaled where q is.
"""

from __future__ import annotations

import re
from functools import cache

from .passes import Cascade, Einsum, Passes, Ref, analyse

_LINE = re.compile(r"(?P<out>\w+\[.*?\]) = (?:(?P<reduction>sum|max) )?(?P<function>\w+)\((?P<inputs>.*)\)"
                   r"(?: from (?P<initial>\S+))?")
_REF = re.compile(r"(\w+)\[(.*?)\]")


def _ref(tensor: str, indices: str) -> Ref:
    names = [index.strip() for index in indices.split(",") if index.strip()]
    last = next((name[1:] for name in names if name.startswith("$")), None)
    before = next((name[:-2] for name in names if name.endswith("-1")), None)
    return Ref(tensor, tuple(name.removesuffix("-1") for name in names if not name.startswith("$")), before, last)


def cascade(name: str, fibre: str, outputs: str, text: str) -> Cascade:
    """The cascade that *text* writes, its passes counted over the ranks of *fibre* (`m`, or `m1 m0`)."""
    einsums = []
    for line in filter(None, map(str.strip, text.splitlines())):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"{name}: {line!r} is no Einsum; one is written SN[m,p] = exp_minus(QK[m,p], GM[p])")
        output, inputs = _ref(*_REF.findall(found["out"])[0]), tuple(_ref(*ref) for ref in _REF.findall(found["inputs"]))
        initial = None if found["initial"] is None else float(found["initial"])
        einsums.append(Einsum(output, found["function"], inputs, found["reduction"], initial))
    return Cascade(name, tuple(einsums), tuple(fibre.split()), tuple(outputs.split()))


#: Numerically stable softmax between two products, as frameworks write it; the scores' fibre is visited for the maximum, for the
#: exponentials and their sum, and for the division.
THREE_PASS = cascade("three-pass softmax", "m", "AV", """
    QK[m,p] = sum multiply(Q[p,e], K[m,e])
    GM[p] = max same(QK[m,p])
    SN[m,p] = exp_minus(QK[m,p], GM[p])
    SD[p] = sum same(SN[m,p])
    A[m,p] = divide(SN[m,p], SD[p])
    AV[p,f] = sum multiply(A[m,p], V[m,f])
""")
#: The same, the division done once for each output: the third pass is gone.
DEFERRED_DIVISION = cascade("softmax divided at the end", "m", "AV", """
    QK[m,p] = sum multiply(Q[p,e], K[m,e])
    GM[p] = max same(QK[m,p])
    SN[m,p] = exp_minus(QK[m,p], GM[p])
    SD[p] = sum same(SN[m,p])
    SNV[p,f] = sum multiply(SN[m,p], V[m,f])
    AV[p,f] = divide(SNV[p,f], SD[p])
""")
#: Exponentials against the maximum of their tile, corrected when the maximum of all is known.
TWO_PASS = cascade("two-pass softmax", "m1 m0", "AV", """
    QK[m1,m0,p] = sum multiply(Q[p,e], K[m1,m0,e])
    LM[m1,p] = max same(QK[m1,m0,p])
    SLN[m1,m0,p] = exp_minus(QK[m1,m0,p], LM[m1,p])
    SLD[m1,p] = sum same(SLN[m1,m0,p])
    GM[p] = max same(LM[m1,p])
    PLM[m1,p] = exp_minus(LM[m1,p], GM[p])
    SD[p] = sum multiply(SLD[m1,p], PLM[m1,p])
    SN[m1,m0,p] = multiply(SLN[m1,m0,p], PLM[m1,p])
    A[m1,m0,p] = divide(SN[m1,m0,p], SD[p])
    AV[p,f] = sum multiply(A[m1,m0,p], V[m1,m0,f])
""")
#: Running maximum, sum and output, corrected tile by tile: flash attention (Dao et al., 2022) and FuseMax.
ONE_PASS = cascade("one-pass (online) softmax", "m1 m0", "AV", """
    QK[m1,m0,p] = sum multiply(Q[p,e], K[m1,m0,e])
    LM[m1,p] = max same(QK[m1,m0,p])
    RM[m1,p] = maximum(RM[m1-1,p], LM[m1,p]) from -inf
    SLN[m1,m0,p] = exp_minus(QK[m1,m0,p], RM[m1,p])
    SLD[m1,p] = sum same(SLN[m1,m0,p])
    SLNV[m1,p,f] = sum multiply(SLN[m1,m0,p], V[m1,m0,f])
    PRM[m1,p] = exp_minus(RM[m1-1,p], RM[m1,p])
    SPD[m1,p] = multiply(RD[m1-1,p], PRM[m1,p])
    RD[m1,p] = add(SLD[m1,p], SPD[m1,p]) from 0
    SPNV[m1,p,f] = multiply(RNV[m1-1,p,f], PRM[m1,p])
    RNV[m1,p,f] = add(SLNV[m1,p,f], SPNV[m1,p,f]) from 0
    AV[p,f] = divide(RNV[$m1,p,f], RD[$m1,p])
""")
#: Without subtracting a maximum (exponentials may overflow), and that divided at the end.
WITHOUT_MAXIMUM = cascade("softmax without maximum", "m", "AV", """
    QK[m,p] = sum multiply(Q[p,e], K[m,e])
    SN[m,p] = exp(QK[m,p])
    SD[p] = sum same(SN[m,p])
    A[m,p] = divide(SN[m,p], SD[p])
    AV[p,f] = sum multiply(A[m,p], V[m,f])
""")
WITHOUT_MAXIMUM_DEFERRED = cascade("softmax without maximum, divided at the end", "m", "AV", """
    QK[m,p] = sum multiply(Q[p,e], K[m,e])
    SN[m,p] = exp(QK[m,p])
    SD[p] = sum same(SN[m,p])
    SNV[p,f] = sum multiply(SN[m,p], V[m,f])
    AV[p,f] = divide(SNV[p,f], SD[p])
""")

#: Softmax of rows, and of rows in pieces with running statistics (Milakov and Gimelshein, 2018, arXiv:1805.02867, algorithm 3).
SOFTMAX = cascade("softmax", "m", "A", """
    GM[r] = max same(X[r,m])
    SN[r,m] = exp_minus(X[r,m], GM[r])
    SD[r] = sum same(SN[r,m])
    A[r,m] = divide(SN[r,m], SD[r])
""")
SOFTMAX_ONLINE = cascade("online softmax", "m1 m0", "A", """
    LM[m1,r] = max same(X[r,m1,m0])
    RM[m1,r] = maximum(RM[m1-1,r], LM[m1,r]) from -inf
    SLN[r,m1,m0] = exp_minus(X[r,m1,m0], RM[m1,r])
    SLD[m1,r] = sum same(SLN[r,m1,m0])
    PRM[m1,r] = exp_minus(RM[m1-1,r], RM[m1,r])
    SPD[m1,r] = multiply(RD[m1-1,r], PRM[m1,r])
    RD[m1,r] = add(SLD[m1,r], SPD[m1,r]) from 0
    SN[r,m1,m0] = exp_minus(X[r,m1,m0], RM[$m1,r])
    A[r,m1,m0] = divide(SN[r,m1,m0], RD[$m1,r])
""")
RMS_NORM = cascade("RMS norm", "m", "Y", """
    SQ[r] = sum square(X[r,m])
    MS[r] = divide(SQ[r], N[])
    RS[r] = rsqrt(MS[r])
    Y[r,m] = multiply(X[r,m], RS[r], G[m])
""")
#: Mean, then the centred squares, then the result.
LAYER_NORM = cascade("layer norm", "m", "Y", """
    S[r] = sum same(X[r,m])
    MU[r] = divide(S[r], N[])
    C[r,m] = subtract(X[r,m], MU[r])
    SQ[r] = sum square(C[r,m])
    VAR[r] = divide(SQ[r], N[])
    RS[r] = rsqrt(VAR[r])
    CS[r,m] = multiply(C[r,m], RS[r], G[m])
    Y[r,m] = add(CS[r,m], B[m])
""")
#: Means and centred squares of pieces of T elements, joined as they pass (Chan, Golub and LeVeque, 1979): W is the new piece's
#: share of what has been seen, U the seen elements times that.
LAYER_NORM_ONLINE = cascade("layer norm, joined piece by piece", "m1 m0", "Y", """
    LS[m1,r] = sum same(X[r,m1,m0])
    LMU[m1,r] = divide(LS[m1,r], T[])
    LC[r,m1,m0] = subtract(X[r,m1,m0], LMU[m1,r])
    LSQ[m1,r] = sum square(LC[r,m1,m0])
    D[m1,r] = subtract(LMU[m1,r], RMU[m1-1,r])
    DW[m1,r] = multiply(D[m1,r], W[m1])
    RMU[m1,r] = add(RMU[m1-1,r], DW[m1,r]) from 0
    DU[m1,r] = multiply(D[m1,r], D[m1,r], U[m1])
    RSQ[m1,r] = add(RSQ[m1-1,r], LSQ[m1,r], DU[m1,r]) from 0
    VAR[r] = divide(RSQ[$m1,r], N[])
    RS[r] = rsqrt(VAR[r])
    C[r,m1,m0] = subtract(X[r,m1,m0], RMU[$m1,r])
    CS[r,m1,m0] = multiply(C[r,m1,m0], RS[r], G[m1,m0])
    Y[r,m1,m0] = add(CS[r,m1,m0], B[m1,m0])
""")

ATTENTION = (THREE_PASS, DEFERRED_DIVISION, TWO_PASS, ONE_PASS, WITHOUT_MAXIMUM, WITHOUT_MAXIMUM_DEFERRED)
ROWS = (SOFTMAX, SOFTMAX_ONLINE, RMS_NORM, LAYER_NORM, LAYER_NORM_ONLINE)


@cache
def passes_of(found: Cascade) -> Passes:
    """The analysis of a cascade, done once."""
    return analyse(found)
