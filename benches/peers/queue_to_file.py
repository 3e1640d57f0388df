"""Producers put records into a multiprocessing.Queue, one process writes them as lines of JSON."""

import json
import multiprocessing
import sys


def record(producer, number):
    ident = (producer + 1) * 1_000_000_000 + number
    return {
        "id": ident,
        "time": 1_700_000_000_000_000_000 + ident * 1_000,
        "resource": "host-0042.local",
        "status": 200 + number % 5,
        "latency": 0.001 + (number % 1_000) / 1e6,
    }


def produce(queue, producer, records):
    for number in range(records):
        queue.put(record(producer, number))
    queue.put(None)


def main():
    output, producers, records = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    queue = multiprocessing.Queue(10_000)
    processes = [
        multiprocessing.Process(target=produce, args=(queue, producer, records))
        for producer in range(producers)
    ]
    for process in processes:
        process.start()
    running = producers
    with open(output, "w") as file:
        while running:
            entry = queue.get()
            if entry is None:
                running -= 1
            else:
                file.write(json.dumps(entry, separators=(",", ":")) + "\n")
    for process in processes:
        process.join()


main()
