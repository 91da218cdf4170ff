"""`make bench`: every measurement, one after the other."""

from bench import attention, demo_grouping, features, grouping_scale, planted, schedule, speed, start

if __name__ == "__main__":
    attention.main()
    speed.main()
    features.main()
    demo_grouping.main()
    start.main()
    schedule.main()
    grouping_scale.main()
    planted.main()
