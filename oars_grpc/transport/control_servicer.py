"""ControlService: parse, call one method, format."""

import grpc

from oars_grpc.core import ids
from oars_grpc.core.control import MAXIMUM_DESCRIPTION, ControlMapping
from oars_grpc.core.coverage import Period
from oars_grpc.core.ids import parse_id
from oars_grpc.generated.oars.v1 import control_pb2, control_pb2_grpc
from oars_grpc.transport.answers import encoded, sent
from oars_grpc.transport.control_messages import (
    PERIODS,
    read_control_id,
    read_evidence,
    read_framework,
    write_mapping,
    write_report,
)
from oars_grpc.transport.current_call import current_call
from oars_grpc.transport.filter_messages import read_filter
from oars_grpc.transport.reading import Reader
from oars_grpc.use_cases.controls import Controls

Context = grpc.ServicerContext


class ControlServicer(control_pb2_grpc.ControlServiceServicer):
    """Serves `oars.v1.ControlService`."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls

    def CreateControlMapping(
        self, request: control_pb2.CreateControlMappingRequest, context: Context
    ) -> control_pb2.CreateControlMappingResponse:
        """Map a control."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        framework = read_framework(reader, request.framework, required=True)
        control_id = read_control_id(reader, request.control_id, "control_id", required=True)
        description = reader.text(
            request.description, "description", MAXIMUM_DESCRIPTION, lines=True
        )
        which = read_filter(reader, request.filter, "filter.")
        required = read_evidence(reader, request.required_evidence, "required_evidence")
        reader.done()
        answer = self._controls.create(
            current_call(),
            tenant_id,
            framework,
            control_id,
            description,
            which,
            required,
            encoded(_write_created),
        )
        return sent(control_pb2.CreateControlMappingResponse, answer)

    def GetControlMapping(
        self, request: control_pb2.GetControlMappingRequest, context: Context
    ) -> control_pb2.GetControlMappingResponse:
        """Read one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        mapping_id = parse_id(ids.CONTROL_MAPPING, request.mapping_id, "mapping_id")
        mapping = self._controls.get(current_call(), tenant_id, mapping_id)
        return control_pb2.GetControlMappingResponse(mapping=write_mapping(mapping))

    def ListControlMappings(
        self, request: control_pb2.ListControlMappingsRequest, context: Context
    ) -> control_pb2.ListControlMappingsResponse:
        """Read a page."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        framework = read_framework(reader, request.framework)
        reader.done()
        page = self._controls.list(
            current_call(),
            tenant_id,
            framework,
            request.page_size,
            request.page_token,
            lambda mapping: write_mapping(mapping).ByteSize(),
            retired=request.include_retired,
        )
        return control_pb2.ListControlMappingsResponse(
            mappings=[write_mapping(mapping) for mapping in page.mappings],
            next_page_token=page.next_page_token,
        )

    def RetireControlMapping(
        self, request: control_pb2.RetireControlMappingRequest, context: Context
    ) -> control_pb2.RetireControlMappingResponse:
        """End one."""
        tenant_id = Reader.checked_tenant_id(request.tenant_id)
        mapping_id = parse_id(ids.CONTROL_MAPPING, request.mapping_id, "mapping_id")
        answer = self._controls.retire(
            current_call(), tenant_id, mapping_id, encoded(_write_retired)
        )
        return sent(control_pb2.RetireControlMappingResponse, answer)

    def GetCoverageReport(
        self, request: control_pb2.GetCoverageReportRequest, context: Context
    ) -> control_pb2.GetCoverageReportResponse:
        """Count evidence by period."""
        reader = Reader()
        tenant_id = reader.tenant_id(request.tenant_id)
        framework = read_framework(reader, request.framework)
        control_id = read_control_id(reader, request.control, "control")
        if control_id and not framework:
            reader.wrong("framework", "is required where control is given")
        begins = getattr(request, "from")  # a keyword of Python
        from_ = reader.moment(begins, "from") if request.HasField("from") else None
        until = reader.moment(request.until, "until") if request.HasField("until") else None
        period = reader.one_of(request.period, "period", PERIODS, Period.DAY) or Period.DAY
        reader.done()
        report = self._controls.coverage(
            current_call(), tenant_id, framework, control_id, from_, until, period
        )
        return write_report(report)


def _write_created(mapping: ControlMapping) -> control_pb2.CreateControlMappingResponse:
    return control_pb2.CreateControlMappingResponse(mapping=write_mapping(mapping))


def _write_retired(mapping: ControlMapping) -> control_pb2.RetireControlMappingResponse:
    return control_pb2.RetireControlMappingResponse(mapping=write_mapping(mapping))
