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
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>{title}</title>
    <link rel="stylesheet" href="docs/static/swagger-ui.css">
    <link rel="stylesheet" href="docs/phone.css">
    <link rel="icon" type="image/png" href="docs/static/favicon-32x32.png">
  </head>
  <body>
    <p id="files"><a href=".">The page</a> <a href="openapi.json">openapi.json</a></p>
    <div id="swagger-ui"></div>
    <script src="docs/static/swagger-ui-bundle.js"></script>
    <script type="module" src="docs/start.js"></script>
  </body>
</html>
"""

# Swagger UI opens on a body's first form: here the one that takes a file, which a program has no use for.
# Headers are for programs alone.
_START = """const api = await (await fetch("openapi.json")).json();
const operations = Object.values(api.paths).flatMap((path) => Object.values(path));
for (const operation of operations) {
  const { requestBody } = operation;
  operation.parameters = operation.parameters.filter((parameter) => parameter.in !== "header");
  const { "multipart/form-data": form, ...others } = requestBody?.content ?? {};
  if (form) requestBody.content = { "multipart/form-data": form, ...others };
}
window.ui = SwaggerUIBundle({
  spec: api,
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  defaultModelsExpandDepth: 0,
});
"""

# Swagger UI puts side by side what has no room for it on a phone.
_PHONE = """body { margin: 0; }
#files { margin: 0; padding: 0.8rem 1.25rem; display: flex; gap: 1.5rem; font-family: sans-serif; }
@media (max-width: 48rem) {
  .swagger-ui .wrapper, .swagger-ui .opblock-body { padding: 0 0.6rem; }
  .swagger-ui .opblock-tag, .swagger-ui .opblock .opblock-summary, .swagger-ui .opblock-summary-control {
    flex-wrap: wrap;
  }
  .swagger-ui .opblock-tag small, .swagger-ui .opblock-summary-description { flex: 1 0 100%; padding: 0.3rem 0; }
  .swagger-ui .opblock .opblock-summary-path { max-width: 100%; }
  .swagger-ui .opblock .opblock-section-header { flex-wrap: wrap; padding: 0.5rem; gap: 0.5rem; }
  .swagger-ui table.parameters, .swagger-ui table.responses-table, .swagger-ui .opblock-section-request-body table {
    table-layout: fixed; width: 100%;
  }
  .swagger-ui table.parameters tr, .swagger-ui .opblock-section-request-body tr, .swagger-ui table.responses-table tr {
    display: flex; flex-direction: column;
  }
  .swagger-ui td, .swagger-ui .parameters-col_description {
    width: 100% !important; max-width: 100%; box-sizing: border-box;
  }
  .swagger-ui input, .swagger-ui select, .swagger-ui textarea { max-width: 100%; min-width: 0 !important; }
  .swagger-ui .markdown code, .swagger-ui .renderedMarkdown code { overflow-wrap: anywhere; }
}
"""


def routes(title: str) -> list[BaseRoute]:
    """`/docs` is Swagger UI over `/openapi.json`."""

    async def page(request: Request) -> Response:
        del request
        return HTMLResponse(_PAGE.format(title=title), headers=_HEADERS)

    async def start(request: Request) -> Response:
        del request
        return Response(_START, media_type="text/javascript")

    async def phone(request: Request) -> Response:
        del request
        return Response(_PHONE, media_type="text/css")

    return [
        Route("/docs", page),
        Route("/docs/start.js", start),
        Route("/docs/phone.css", phone),
        Mount("/docs/static", StaticFiles(directory=swagger_ui.static_path)),
    ]
