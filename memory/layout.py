"""Where each number stands in the controller's flat arrays: the contract between the tables and the compiled kernels.

One channel is one row of int64 (``state``), so that a channel can be copied whole (channel classes split that way) and all
channels run in one call. Sizes differ by device; the offsets of the variable parts are entries of the parameter array.
Names without a prefix are plain indices; numba sees them as constants.
"""

from __future__ import annotations

from typing import Final

#: A time that never comes, in cycles.
NEVER: Final = 1 << 60
#: Candidates are compared as one number: cycles to wait, then age, then bank. A wait of WAIT_LIMIT or more never ends.
BANK_BITS: Final = 9
KEY_BITS: Final = 45                # age and bank
WAIT_LIMIT: Final = 1 << 16
NO_KEY: Final = 1 << 62             # above every key with its wait

# --- parameters (one array for all channels) ---------------------------------------------------------------------------
# Geometry. Banks are numbered flat: pseudo-channel (or rank), stack id, bank group, bank, most significant first.
P_BANKS: Final = 0
P_COMMANDS: Final = 1
P_GROUPS: Final = 2                 # nodes of the lowest level above the bank
P_GROUP_SHIFT: Final = 3            # bank >> shift = group
P_SCOPES: Final = 4                 # nodes that an all-bank command addresses (rank or pseudo-channel)
P_SCOPE_SHIFT: Final = 5
P_STATE_WORDS: Final = 6
P_SLOTS: Final = 7                  # request slots: both queues and one in service for each bank
# Offsets of the variable parts of a state row.
P_O_BANK_READY: Final = 10          # [command][bank]: first cycle that the bank (and, for row commands, all above it) allows it
P_O_GROUP_READY: Final = 11         # [command][group]: what the levels above the bank say of column commands
P_O_SCOPE_READY: Final = 12         # [command][scope]: for commands that address a whole scope
P_O_HISTORY: Final = 13             # rings of the window rules
P_O_OPEN_ROW: Final = 14            # [bank]: row in the row buffer, CLOSED or ACTIVATING
P_O_PIM_ROW: Final = 15             # [bank]: row in the second row buffer (PIM standards), CLOSED otherwise
P_O_ACTIVE: Final = 16              # [bank]: slot whose ACT was issued and whose column command was not, or -1
P_O_HITS_SERVED: Final = 17         # [bank]: column commands since the ACT
P_O_LAST_USE: Final = 18            # [bank]: cycle of the last column command or ACT
P_O_HEAD: Final = 19                # [queue][bank]: oldest slot, then its list by P_O_NEXT/P_O_PREV
P_O_TAIL: Final = 20
P_O_HIT: Final = 21                 # [queue][bank]: oldest slot that wants the open row, or -1
P_O_MISS: Final = 22                # [queue][bank]: oldest slot that wants another row, or -1
P_O_BUSY: Final = 23                # [queue][k]: banks with waiting slots, in no order
P_O_BUSY_AT: Final = 24             # [queue][bank]: where the bank stands in that list, or -1
P_O_ACTIVE_LIST: Final = 25         # [k]: banks with a slot in service
P_O_NEXT: Final = 26                # [slot]
P_O_PREV: Final = 27
P_O_SLOT_BANK: Final = 28
P_O_SLOT_ROW: Final = 29
P_O_SLOT_COL: Final = 30
P_O_SLOT_AGE: Final = 31            # sequence number of admission
P_O_SLOT_TICK: Final = 32           # cycle of admission
P_O_SLOT_DESC: Final = 33           # descriptor that the request belongs to
P_O_SLOT_WRITE: Final = 34
P_O_SLOT_SEEN: Final = 35           # 1 once a first command was issued for it (row hit, miss or conflict is decided then)
P_O_FREE: Final = 36                # stack of free slots
P_O_PRIORITY: Final = 37            # ring of refreshes that must go now: target bank, or -1 - scope
P_O_OPEN_BANKS: Final = 38          # [scope]: banks open
P_O_OPEN_SINCE: Final = 39          # [scope]
P_O_OPEN_CYCLES: Final = 40         # [scope]: cycles with at least one bank open
P_O_OWED: Final = 41                # [scope]: refreshes postponed
P_O_NEXT_BANK: Final = 42           # [scope]: next bank of a per-bank refresh
P_O_COUNT: Final = 43               # [command]: commands issued
P_O_MISS_KEY: Final = 45            # [queue][bank]: age << BANK_BITS | bank of the oldest miss; NO_KEY: none, or the row is held
P_O_HELD: Final = 46                # [bank]: 1 while its row was opened for a request that has not used it
P_O_QUEUE: Final = 44               # banked scheduler, [5][bank]: head, tail, oldest hit read, oldest hit write, length
P_O_TWIN: Final = 49                # banked scheduler, [slot]: another read of the same burst, or -1
# Commands (their numbers in this standard; -1 where it has none).
P_ACT: Final = 50
P_ACT2: Final = 51
P_PRE: Final = 52
P_PREA: Final = 53
P_RD: Final = 54
P_WR: Final = 55
P_REFAB: Final = 56
P_REFPB: Final = 57
P_CAS_RD: Final = 58
P_CAS_WR: Final = 59
# Timing that is no pairwise rule.
P_READ_LATENCY: Final = 60          # column command to last data beat: CL + burst
P_WRITE_LATENCY: Final = 61         # CWL + burst
P_BURST: Final = 62
P_REFI: Final = 63                  # cycles between two refreshes of one scope; 0: none
P_PER_BANK: Final = 64              # 1: refresh one bank at a time
P_SPLIT_WINDOW: Final = 65          # ACT2 must follow ACT within so many cycles (LPDDR5 tAAD); 0: one-part ACT
P_WCK_POST: Final = 66              # write clock stays in sync so long after a burst (LPDDR5 tWCKPST); -1: no sync needed
P_MIN_COLUMN_GAP: Final = 67        # no channel ends more than one request in so many cycles; 0: any number
P_LOOKAHEAD: Final = 68             # no request ends sooner after its column command than this
# Controller.
P_SCHEDULER: Final = 70             # SCHED_*
P_DUAL_BUS: Final = 71              # 1: a row and a column command may go in one cycle
P_ALIGN_COLUMN: Final = 72          # 1: only in odd cycles (rising edge, where a cycle is half a clock)
P_ALIGN_ROW: Final = 73             # the same for row commands other than precharge
P_READ_DEPTH: Final = 74
P_WRITE_DEPTH: Final = 75
P_DRAIN_ON: Final = 76              # writes are served when so many wait …
P_DRAIN_OFF: Final = 77             # … until no more than this wait
P_HIT_FIRST: Final = 78             # 1: row hits go before older row commands
P_HIT_CAP: Final = 79               # so many hits in a row before an older miss may close the row; 0: no cap
P_PAGE_TIMEOUT: Final = 80          # close a row unused for so many cycles; -1: leave it open
P_MERGE: Final = 81                 # 1: requests to an address with a waiting write are served from the queue
P_MERGE_READS: Final = 82           # 1: reads of an address that a waiting read wants share its burst
P_KEEP_ORDER: Final = 97            # 1: a request waits for earlier ones to its address where either writes
P_DEPENDENT: Final = 83             # 1: a request is offered only after the data of the one before (pointer chase)
P_POSTPONE: Final = 84              # refreshes that may be owed at most
P_REFRESH_BLOCKS: Final = 85        # 1: a due refresh stops every bank of the channel, not only its own
P_ARBITER: Final = 86               # PIM queue against host queue: 0 exclusive, 1 interleave
P_BANK_DEPTH: Final = 87            # banked scheduler: commands held for each bank
P_DRAIN_IDLE: Final = 88            # banked scheduler: drain early when more writes than this wait and all queues are empty
P_QUEUE_HIT_CAP: Final = 89         # banked scheduler: hits after which a waiting miss closes the row
P_SEGMENTS: Final = 90
P_XORS: Final = 91
# What a command of one bus does to every command of the other: cycles that a decision made before stays good for.
P_COLUMN_TO_ROW: Final = 92
P_ROW_TO_COLUMN: Final = 93
P_COUPLED: Final = 94               # 1: the buses also interact in part of the channel, so decisions are made anew each time
P_SIZE: Final = 104                 # behind this: the wait tables of section 1

SCHED_READY: Final = 0              # FR-FCFS: the oldest request whose next command is ready
SCHED_IN_ORDER: Final = 1           # FCFS
SCHED_BANKED: Final = 2             # per-bank command queues served round robin

# --- state row: scalars ------------------------------------------------------------------------------------------------
S_NOW: Final = 0                    # next cycle to decide
S_COLUMN_FROM: Final = 1            # first cycle with a free column slot
S_ROW_FROM: Final = 2
S_NEXT_REFRESH: Final = 3
S_DESC_HEAD: Final = 4              # descriptor being admitted
S_DESC_POS: Final = 5               # its next request
S_DESC_TAIL: Final = 6
S_DESC_LOW: Final = 7               # every descriptor before this one is finished
S_LAST_ADMIT: Final = 8
S_SEQUENCE: Final = 9
S_READS: Final = 10                 # waiting, by queue (index S_READS + is_write)
S_WRITES: Final = 11
S_READ_ROOM: Final = 12             # first cycle at which the queue, once full, takes a request again
S_WRITE_ROOM: Final = 13
S_WRITE_MODE: Final = 14
S_BUSY_READ: Final = 15             # banks in the busy list, by queue
S_BUSY_WRITE: Final = 16
S_ACTIVES: Final = 17
S_FREE: Final = 18
S_PRIORITY_HEAD: Final = 19
S_PRIORITY_COUNT: Final = 20
S_SPLIT_BANK: Final = 21            # bank between its two activate commands, or -1
S_SPLIT_DEADLINE: Final = 22
S_SPLIT_SLOT: Final = 23
S_WCK_UNTIL: Final = 24
S_CHAIN_READY: Final = 25           # dependent requests: cycle at which the next may be offered, NEVER while one is out
S_ROUND_ROBIN: Final = 26
S_DRAINING: Final = 27
S_IN_REFRESH: Final = 28
S_PIM_HEAD: Final = 29              # in-order PIM queue: next and end of its commands
S_PIM_TAIL: Final = 30
S_LOG: Final = 31                   # entries of the command log written
S_FINISHED: Final = 32              # transfers that ended in this call
S_TAKEN: Final = 33                 # requests taken from the descriptors
S_HEAD_CHECKED: Final = 34          # value of S_TAKEN when the request at the head was decoded
S_HEAD_BANK: Final = 35             # where it goes
S_HEAD_ROW: Final = 37
S_HEAD_COLUMN: Final = 38
S_HEAD_FREE: Final = 39             # 1 once no earlier request to its address was found waiting
S_BANK_QUEUED: Final = 36           # banked scheduler: requests in bank queues
S_HIT_BANKS: Final = 58             # banks with a waiting hit, by queue: + is_write
S_DRAIN_HELD: Final = 60            # banked scheduler: 1 after a drain met a write whose read still waits in its queue
# Counters.
S_ROW_HITS: Final = 40              # by queue: + is_write
S_ROW_MISSES: Final = 42
S_ROW_CONFLICTS: Final = 44
S_READ_LATENCY_SUM: Final = 46
S_READ_LATENCY_MAX: Final = 47
S_READS_DONE: Final = 48
S_WRITES_DONE: Final = 49
S_MERGED: Final = 50                # by queue: + is_write
S_LAST_COLUMN: Final = 52
S_LAST_DATA: Final = 53
S_TURNAROUNDS: Final = 54
S_LAST_WAS_WRITE: Final = 55
S_WCK_SYNCS: Final = 56
S_OWED_MAX: Final = 57              # most refreshes ever owed by one scope
S_SCALARS: Final = 64

CLOSED: Final = -1
ACTIVATING: Final = -2

# --- descriptors (rows of requests of one channel: consecutive channel-local bursts) -----------------------------------
D_START: Final = 0                  # channel-local index of the first burst
D_COUNT: Final = 1
D_TICK: Final = 2                   # first cycle at which a request may be seen by the scheduler
D_WRITE: Final = 3
D_LEFT: Final = 4                   # requests whose data has not been assigned its cycle
D_FINISH: Final = 5                 # cycle after the last data beat so far
D_TRANSFER: Final = 6               # row of the transfer table
D_ADMIT: Final = 7                  # cycle at which its last request so far entered its queue
D_SIZE: Final = 8

X_LEFT: Final = 0                   # transfer table: descriptors unfinished
X_FINISH: Final = 1
X_SIZE: Final = 2

# --- rules, sorted by issuing command, then by section -----------------------------------------------------------------
R_BASE: Final = 0                   # offset in the state row of the target command's first entry (bank, group or scope)
R_WAIT: Final = 1                   # cycles; in section 1 where its table of waits stands among the parameters
R_NODE_SHIFT: Final = 2             # bank >> shift = node of the rule's level
R_SPAN_SHIFT: Final = 3             # entries of that node: 1 << shift
R_PARENT_SHIFT: Final = 4           # siblings: entries of the parent: 1 << shift
R_WINDOW: Final = 5                 # 1: since the last; n: since the n-th last
R_HISTORY: Final = 6                # offset of the window ring, or -1
R_KIND: Final = 7                   # of section 2
R_TARGET: Final = 8
R_SIZE: Final = 9

SECTIONS: Final = 3
SECTION_BANK: Final = 0             # the addressed bank
SECTION_NODE: Final = 1             # all that lies above the bank, as one table: [group of the command][entry of the node] waits
SECTION_OTHER: Final = 2            # windows, siblings, whole scopes
KIND_NODE: Final = 0                # every entry of the node, with a window
KIND_SIBLINGS: Final = 1            # every entry of the parent but not of the node
KIND_SCOPE_BANKS: Final = 2         # every bank of the scope (issued by a command that addresses it)
KIND_SIBLING_BANKS: Final = 3       # the other banks of the group
KIND_BANK: Final = 4                # as SECTION_BANK, with a window

# --- address segments: local burst index → bank, row, column -----------------------------------------------------------
A_FROM: Final = 0                   # shift in the index
A_MASK: Final = 1
A_FIELD: Final = 2                  # FIELD_*
A_TO: Final = 3                     # shift in the field
A_SIZE: Final = 4
FIELD_BANK: Final = 0
FIELD_ROW: Final = 1
FIELD_COLUMN: Final = 2

# --- command log -------------------------------------------------------------------------------------------------------
L_CYCLE: Final = 0
L_COMMAND: Final = 1
L_BANK: Final = 2                   # flat bank; for a command that addresses a scope its first bank
L_ROW: Final = 3
L_COLUMN: Final = 4
L_REQUEST: Final = 5                # age of the request served, -1 for refresh
L_SIZE: Final = 6
