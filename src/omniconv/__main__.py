# SPDX-License-Identifier: Apache-2.0
"""``python -m omniconv``: the command line."""

from omniconv.cli import main

if __name__ == "__main__":
    main()
