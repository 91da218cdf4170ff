"""`make bench`: every measurement, one after the other."""

from bench import attention, demo_grouping, speed, start

if __name__ == "__main__":
    attention.main()
    speed.main()
    demo_grouping.main()
    start.main()
