"""Could this file run code, or reach files, when a framework loads and runs it?"""
