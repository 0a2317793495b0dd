"""What is wrong with the box, and the archive for whoever helps. The findings themselves stand on the page System."""

from __future__ import annotations

import time
from dataclasses import asdict

from flask import Blueprint, Response, request

from appliance.doctor import bundle
from appliance.doctor.findings import counts
from appliance.http.answering import reply
from appliance.http.contract import Services, needs
from appliance.http.pages import guarded


def blueprint(services: Services) -> Blueprint:
    """The routes of this file."""
    routes = guarded(Blueprint("admin_doctor", __name__))

    @routes.get("/admin/api/doctor")
    @needs("admin")
    def api() -> Response:
        """?again=1 looks now; else what was found in the last quarter of an hour."""
        doctor = services.doctor
        if request.args.get("again") or not doctor.at:
            doctor.look()
        return reply({"at": doctor.at, "counts": counts(doctor.found), "findings": [asdict(one) for one in doctor.found]})

    @routes.get("/admin/api/doctor/bundle")
    @needs("admin")
    def archive() -> Response:
        """A tar.gz without anybody's words or names."""
        now = time.time()
        packed = bundle.make(services.doctor.look(), services.config, services.metrics.render(), bundle.recent_lines(), now)
        response = Response(packed, content_type="application/gzip")
        response.headers["Content-Disposition"] = f'attachment; filename="appliance-doctor-{time.strftime("%Y%m%d", time.gmtime(now))}.tar.gz"'
        return response

    return routes
