from gke.cli import main

main()
