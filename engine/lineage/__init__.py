"""The tree that a family of checkpoints came from, estimated from pairwise sums; scipy is imported when it is drawn.

family      sums -> distances, correlations, the measure that the tree is the shortest of
copies      equal checkpoints, and rounded ones
merges      averages of two
soups       averages of three and more
spanning    the undirected tree
support     how sure each edge is, and children lifted to their grandparents
graph       edges of a forest
direction   which end of an edge is the older
descent     all of these -> `tree.Tree`
tree        the answer as data
lines, dot  the answer as text
printing    where it goes
gathering   the sums of all pairs -> a family
acts        what `weighbridge.lineage` is
"""
