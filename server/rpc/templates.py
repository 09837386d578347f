"""TemplatesService over gRPC."""

from typing import Any

import grpc
from orch8cloud.v1 import templates_pb2 as pb
from orch8cloud.v1.templates_pb2_grpc import TemplatesServiceServicer

from server.domain.publishing import MIN_ENGINE_VERSION, SCHEMA_VERSION, Published
from server.domain.templates import Template
from server.rpc.convert import struct
from server.services.templates import TemplatesService

Context = grpc.aio.ServicerContext[Any, Any]


class TemplatesServicer(TemplatesServiceServicer):
    """Converts once, since the catalog does not change, and leaves the rest to the service."""

    def __init__(self, service: TemplatesService) -> None:
        self._service = service
        self._list = pb.ListTemplatesResponse(templates=map(_template, service.all()))
        self._catalog = pb.GetCatalogResponse(
            schema_version=SCHEMA_VERSION, templates=map(_published, service.published())
        )

    async def ListTemplates(self, request: pb.ListTemplatesRequest, context: Context) -> pb.ListTemplatesResponse:
        """See templates.proto."""
        return self._list

    async def GetTemplate(self, request: pb.GetTemplateRequest, context: Context) -> pb.Template:
        """See templates.proto."""
        return _template(self._service.get(request.template_id))

    async def GetCatalog(self, request: pb.GetCatalogRequest, context: Context) -> pb.GetCatalogResponse:
        """See templates.proto."""
        return self._catalog


def _template(found: Template) -> pb.Template:
    return pb.Template(
        id=found.id,
        name=found.name,
        description=found.description,
        tags=found.tags,
        plan=found.plan,
        config=struct(found.config),
        secrets=[
            pb.TemplateSecret(name=secret.name, description=secret.description, required=secret.required)
            for secret in found.secrets
        ],
        trigger=struct(found.trigger),
        sequence=struct(found.sequence),
        author=found.author,
    )


def _published(entry: Published) -> pb.CatalogTemplate:
    template = entry.template
    return pb.CatalogTemplate(
        name=template.name,
        description=template.description,
        tags=template.tags,
        author=template.author,
        min_engine_version=MIN_ENGINE_VERSION,
        handlers=pb.CatalogHandlers(
            builtin=entry.builtin,
            workers=[
                pb.CatalogWorker(handler=worker.handler, queue=worker.queue, contract="See the description.")
                for worker in entry.workers
            ],
        ),
        requires=entry.requires,
        sequence=struct(entry.sequence),
    )
