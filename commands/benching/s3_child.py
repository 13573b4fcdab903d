"""The plain loop that people write, in a process of its own: download, de-identify with pydicom, upload.

Run by the peers' Python with an endpoint, bucket, prefix and the bucket to write into; credentials come from the
environment. Prints one line of JSON. It removes less than a profile does, and keeps no promise.
"""

import io
import json
import sys
import time

import boto3
import pydicom
from botocore.config import Config
from pydicom.uid import generate_uid


def clean(dataset: pydicom.Dataset) -> None:
    """Replace persons, ids and UIDs, remove dates and private elements."""

    def callback(_: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.VR in ("PN", "LO", "SH", "LT", "ST") or element.VR in ("DA", "TM", "DT"):
            element.value = ""
        elif element.VR == "UI" and element.keyword.endswith("InstanceUID"):
            element.value = generate_uid(entropy_srcs=[str(element.value)])

    dataset.remove_private_tags()
    dataset.walk(callback)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID


def main() -> None:
    """Work through a prefix."""
    endpoint, bucket, prefix, target = sys.argv[1:]
    s3 = boto3.client("s3", endpoint_url=endpoint, config=Config(s3={"addressing_style": "path"}))
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    s3.create_bucket(Bucket=target)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    began, cpu = time.monotonic(), time.process_time()
    for key in keys:
        data = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        dataset = pydicom.dcmread(io.BytesIO(data))
        clean(dataset)
        out = io.BytesIO()
        dataset.save_as(out, enforce_file_format=True)
        s3.put_object(Bucket=target, Key=key, Body=out.getvalue())
    took, used = time.monotonic() - began, time.process_time() - cpu
    print(json.dumps({"count": len(keys), "seconds": took, "cpu_seconds": used}))


if __name__ == "__main__":
    main()
