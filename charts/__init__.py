"""The Helm chart, and the two commands around it: package.py and reference.py."""
