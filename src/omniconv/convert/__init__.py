# SPDX-License-Identifier: Apache-2.0
"""Models made into other models: found module by module, replaced, and compared."""
