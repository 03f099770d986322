# SPDX-License-Identifier: Apache-2.0
"""A host for CNI plugins (Container Network Interface specification 1.1).

`config`, `requests`, `results` and `chain` decide and touch nothing; `directory`, `records` and `execution` touch the
disk and start processes; `network` is the way in. Which requirement of the specification is tested where is listed
in docs/networking.md.
"""
