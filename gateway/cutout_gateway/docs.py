"""The page that shows the API and lets one try it; it works without internet."""

from openapi_ui_bundles import swagger_ui
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_HEADERS = {
    # Swagger UI writes inline styles and data: pictures; everything else comes from here alone.
    "content-security-policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; frame-ancestors 'none'"
    ),
}

_PAGE = """<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>{title}</title>
    <link rel="stylesheet" href="docs/static/swagger-ui.css">
    <link rel="icon" type="image/png" href="docs/static/favicon-32x32.png">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <script src="docs/static/swagger-ui-bundle.js"></script>
    <script src="docs/start.js"></script>
  </body>
</html>
"""

_START = """window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
"""


def routes(title: str) -> list[BaseRoute]:
    """`/docs` is Swagger UI over `/openapi.json`."""

    async def page(request: Request) -> Response:
        del request
        return HTMLResponse(_PAGE.format(title=title), headers=_HEADERS)

    async def start(request: Request) -> Response:
        del request
        return Response(_START, media_type="text/javascript")

    return [
        Route("/docs", page),
        Route("/docs/start.js", start),
        Mount("/docs/static", StaticFiles(directory=swagger_ui.static_path)),
    ]
