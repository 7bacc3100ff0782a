# SPDX-License-Identifier: Apache-2.0
"""How results look: numbers, text in columns that is never cut, delimited text, HTML, words in two languages."""
