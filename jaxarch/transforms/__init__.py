"""One annotated jaxpr, many readings: prune, shrink, draw and describe any function."""

from ._annotate import (
    Annotation as Annotation,
    Group as Group,
    annotate as annotate,
    groups as groups,
)
from ._chain_text import chain_text as chain_text
from ._describe import (
    Description as Description,
    Held as Held,
    Layer as Layer,
    describe as describe,
)
from ._dhspg import (
    DHSPGState as DHSPGState,
    dhspg as dhspg,
    zero_groups as zero_groups,
)
from ._diagram import diagram as diagram
from ._elastic import Elastic as Elastic, elastic as elastic
from ._group_proximal import (
    GroupProximalState as GroupProximalState,
    group_proximal as group_proximal,
)
from ._importance import importance as importance
from ._lottery import (
    LotteryRound as LotteryRound,
    iterative_pruning_masks as iterative_pruning_masks,
    magnitude_masks as magnitude_masks,
    rewind as rewind,
)
from ._obspa import obspa as obspa
from ._predict_performance import predict_performance as predict_performance
from ._prune import (
    Pruned as Pruned,
    PruneReport as PruneReport,
    check_exact as check_exact,
    prune as prune,
)
from ._svg import SVG as SVG
from ._walk import Equation as Equation, Rules as Rules, walk as walk
